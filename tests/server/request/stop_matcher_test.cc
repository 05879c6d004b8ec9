#include "server/request/stop_matcher.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace tauserve {
namespace {

TEST(StopMatcherTest, HoldsBackWhatMayBecomeAStop) {
  StopMatcher m({"END"}, false);
  EXPECT_EQ(m.Append("abE"), "ab");
  EXPECT_EQ(m.Append("N"), "");
  EXPECT_EQ(m.Append("x"), "ENx");
  EXPECT_FALSE(m.matched());
}

TEST(StopMatcherTest, StopsAcrossPieces) {
  StopMatcher m({"END"}, false);
  EXPECT_EQ(m.Append("abE"), "ab");
  EXPECT_EQ(m.Append("NDrest"), "");
  EXPECT_TRUE(m.matched());
  EXPECT_EQ(m.match(), "END");
  EXPECT_EQ(m.Append("more"), "");
}

TEST(StopMatcherTest, IncludesTheStopIfAsked) {
  StopMatcher m({"END"}, true);
  EXPECT_EQ(m.Append("abENDrest"), "abEND");
}

TEST(StopMatcherTest, FirstCompleteThenLongest) {
  StopMatcher m({"abcd", "c", "bc"}, false);
  EXPECT_EQ(m.Append("abcd"), "a");
  EXPECT_EQ(m.match(), "bc");
}

TEST(StopMatcherTest, FlushShowsWhatWasHeld) {
  StopMatcher m({"\n\nQ"}, false);
  EXPECT_EQ(m.Append("a\n\n"), "a");
  EXPECT_EQ(m.Flush(), "\n\n");
}

TEST(StopMatcherTest, NotArmedNeverMatches) {
  StopMatcher m({"a"}, false);
  EXPECT_EQ(m.Append("aa", false), "aa");
  EXPECT_EQ(m.Append("a", true), "");
  EXPECT_TRUE(m.matched());
}

// Cut anywhere, the text shown is the text up to the first stop string.
TEST(StopMatcherTest, RandomPiecesGiveTheSameText) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 5000; round++) {
    std::string text(random() % 30, 'a');
    for (char& c : text) c = "ab"[random() % 2];
    std::vector<std::string> stops(1 + random() % 3);
    for (std::string& s : stops) {
      s.assign(1 + random() % 5, 'a');
      for (char& c : s) c = "ab"[random() % 2];
    }
    std::pair<size_t, size_t> first = {text.size() + 1, text.size()};  // end and start
    for (const std::string& s : stops) {
      const size_t at = text.find(s);
      if (at != std::string::npos) first = std::min(first, {at + s.size(), at});
    }
    StopMatcher m(stops, false);
    std::string shown;
    for (size_t at = 0; at < text.size() && !m.matched();) {
      const size_t n = 1 + random() % 4;
      const size_t before = shown.size();
      shown += m.Append(text.substr(at, n));
      ASSERT_GE(shown.size(), before);
      at += n;
    }
    if (!m.matched()) shown += m.Flush();
    ASSERT_EQ(shown, text.substr(0, first.second));
    ASSERT_EQ(m.matched(), first.first <= text.size());
  }
}

}  // namespace
}  // namespace tauserve
