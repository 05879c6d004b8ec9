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

TEST(StopMatcherTest, AStopThatBeginsUnarmedMayEndArmed) {
  StopMatcher m({"END"}, false);
  EXPECT_EQ(m.Append("ENDxEN", false), "ENDx");
  EXPECT_EQ(m.Append("D"), "");
  EXPECT_TRUE(m.matched());
}

TEST(StopMatcherTest, AStopThatEndedUnarmedIsNotFoundLater) {
  StopMatcher m({"abc", "b"}, false);
  EXPECT_EQ(m.Append("ab", false), "");  // may become "abc"
  EXPECT_EQ(m.Append("x"), "abx");
  EXPECT_FALSE(m.matched());
}

// Cut anywhere, the text shown is the text up to the first stop string that ends behind the unarmed part; and no more
// is held back than the longest stop string may need.
TEST(StopMatcherTest, RandomPiecesGiveTheSameText) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 10000; round++) {
    std::string text(random() % 30, 'a');
    for (char& c : text) c = "ab"[random() % 2];
    std::vector<std::string> stops(1 + random() % 3);
    for (std::string& s : stops) {
      s.assign(1 + random() % 5, 'a');
      for (char& c : s) c = "ab"[random() % 2];
    }
    const bool include = random() % 2;
    std::vector<std::string> pieces;
    size_t unarmed = 0;
    const size_t unarmed_pieces = random() % 4;
    for (size_t at = 0; at < text.size(); at += pieces.back().size()) {
      pieces.push_back(text.substr(at, 1 + random() % 4));
      if (pieces.size() <= unarmed_pieces) unarmed = at + pieces.back().size();
    }
    std::pair<size_t, size_t> first = {text.size() + 1, text.size()};  // end and start
    for (const std::string& s : stops) {
      for (size_t at = text.find(s); at != std::string::npos; at = text.find(s, at + 1)) {
        if (at + s.size() > unarmed) first = std::min(first, {at + s.size(), at});
      }
    }
    const bool match = first.first <= text.size();
    StopMatcher m(stops, include);
    std::string shown;
    size_t taken = 0;
    for (size_t i = 0; i < pieces.size() && !m.matched(); i++) {
      shown += m.Append(pieces[i], i >= unarmed_pieces);
      taken += pieces[i].size();
      ASSERT_TRUE(m.matched() || shown.size() + 4 >= taken);
    }
    if (!m.matched()) shown += m.Flush();
    ASSERT_EQ(shown, text.substr(0, match && include ? first.first : first.second));
    ASSERT_EQ(m.matched(), match);
    ASSERT_EQ(m.match(), match ? text.substr(first.second, first.first - first.second) : "");
  }
}

}  // namespace
}  // namespace tauserve
