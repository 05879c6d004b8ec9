// What a client gets to see: characters, stop strings, the reason of the end.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "tests/server/engine/engine_fixture.h"

namespace tauserve {
namespace {

// The model spells a text, byte by byte.
class SpellingTest : public EngineTest {
 protected:
  void Spell(const std::string& text) {
    Start();
    model_->on_logits = [text](int32_t, int32_t position, absl::Span<float> logits) {
      for (float& x : logits) x = 0;
      const size_t at = position;  // the prompt is one token
      logits[at < text.size() ? static_cast<uint8_t>(text[at]) : kFakeEos] = 10;
    };
  }
  FakeRequest Ask(std::function<void(Request&)> change = {}) {
    FakeRequest f = MakeFakeRequest("a", 1, 100);
    if (change) change(*f.request);
    EXPECT_TRUE(engine_->Submit(f.request).ok());
    f.sink->Wait();
    return f;
  }
};

TEST_F(SpellingTest, EndTokenEndsAndIsNotShown) {
  Spell("hello");
  FakeRequest f = Ask();
  EXPECT_EQ(f.sink->text(), "hello");
  EXPECT_EQ(f.sink->Wait().reason, FinishReason::kEosToken);
  EXPECT_EQ(f.sink->finish().stop_token, kFakeEos);
  EXPECT_EQ(f.sink->Wait().new_tokens, 6);
}

TEST_F(SpellingTest, StopStringAcrossTokens) {
  Spell("one, two, three");
  FakeRequest f = Ask([](Request& r) { r.stopping.stop_strings = {", tw"}; });
  EXPECT_EQ(f.sink->text(), "one");
  EXPECT_EQ(f.sink->Wait().reason, FinishReason::kStopString);
  EXPECT_EQ(f.sink->finish().stop_string, ", tw");
}

TEST_F(SpellingTest, StopTokenAndMinimum) {
  Spell("abcabc");
  FakeRequest f = Ask([](Request& r) { r.stopping.stop_token_ids = {'c'}; });
  EXPECT_EQ(f.sink->text(), "ab");
  EXPECT_EQ(f.sink->Wait().reason, FinishReason::kStopToken);
}

TEST_F(SpellingTest, MinimumForbidsTheEndToken) {
  Spell("ab");
  FakeRequest f = Ask([](Request& r) { r.stopping.min_new_tokens = 4; });
  EXPECT_EQ(f.sink->Wait().new_tokens, 5);
  const std::vector<int32_t> tokens = f.sink->tokens();
  EXPECT_EQ(std::count(tokens.begin(), tokens.end() - 1, kFakeEos), 0);
}

TEST_F(SpellingTest, CharactersArriveWhole) {
  Spell("gr\xc3\xbc\xc3\x9f dich \xf0\x9f\x98\x80");
  FakeRequest f = Ask();
  EXPECT_EQ(f.sink->text(), "gr\xc3\xbc\xc3\x9f dich \xf0\x9f\x98\x80");
  for (const Delta& d : f.sink->deltas()) {
    // One byte a token: a delta is empty, an ASCII character, or all bytes of another one.
    const std::vector<std::string> whole = {"\xc3\xbc", "\xc3\x9f", "\xf0\x9f\x98\x80"};
    EXPECT_EQ(d.tokens.size(), 1u);
    EXPECT_TRUE(d.text.empty() || (d.text.size() == 1 && !(d.text[0] & 0x80)) ||
                std::find(whole.begin(), whole.end(), d.text) != whole.end())
        << testing::PrintToString(d.text);
  }
}

TEST_F(SpellingTest, MinimumHoldsStopStringsOff) {
  Spell("STOP here, STOP there");
  FakeRequest f = Ask([](Request& r) {
    r.stopping.stop_strings = {"STOP"};
    r.stopping.min_new_tokens = 14;  // the second one begins before it
  });
  EXPECT_EQ(f.sink->text(), "STOP here, ");
  EXPECT_EQ(f.sink->Wait().reason, FinishReason::kStopString);
}

TEST_F(SpellingTest, IncludedStopStringIsShown) {
  Spell("one, two, three");
  FakeRequest f = Ask([](Request& r) {
    r.stopping.stop_strings = {"three", "two"};
    r.stopping.include_stop_in_output = true;
  });
  EXPECT_EQ(f.sink->text(), "one, two");
  EXPECT_EQ(f.sink->finish().stop_string, "two");
}

TEST_F(SpellingTest, IgnoredEndTokenGoesOnToTheMaximum) {
  Spell("ab");
  FakeRequest f = Ask([](Request& r) {
    r.stopping.ignore_eos = true;
    r.stopping.max_new_tokens = 5;
  });
  EXPECT_EQ(f.sink->Wait().reason, FinishReason::kMaxNewTokens);
  EXPECT_EQ(f.sink->text(), "ab");
  EXPECT_EQ(f.sink->tokens(), (std::vector<int32_t>{'a', 'b', kFakeEos, kFakeEos, kFakeEos}));
}

TEST_F(SpellingTest, BrokenCharactersAreReplaced) {
  Spell("a\xc3");
  FakeRequest f = Ask();
  EXPECT_EQ(f.sink->text(), "a\xef\xbf\xbd");
}

}  // namespace
}  // namespace tauserve
