#include "server/engine/output_processor.h"

#include <gtest/gtest.h>

#include "tests/server/engine/fake_model.h"

namespace tauserve {
namespace {

class OutputProcessorTest : public testing::Test {
 protected:
  OutputProcessorTest() {
    request_.stopping.max_new_tokens = 10;
    model_.max_context_tokens = 12;
    model_.eos_token_ids = {kFakeEos};
  }
  // Feeds the bytes of `text`; returns the reason of the last one.
  std::optional<FinishReason> Feed(OutputProcessor& p, const std::string& text) {
    std::optional<FinishReason> reason;
    for (char c : text) {
      new_tokens_++;
      reason =
          p.Append(static_cast<uint8_t>(c), new_tokens_, 5 + new_tokens_, std::nullopt, delta_);
    }
    return reason;
  }
  Request request_;
  ModelInfo model_;
  FakeTokenizer tokenizer_;
  Delta delta_;
  int32_t new_tokens_ = 0;
};

TEST_F(OutputProcessorTest, EndsAtTheContextsLimit) {
  OutputProcessor p(request_, model_, &tokenizer_);
  EXPECT_EQ(Feed(p, "abcdef"), std::nullopt);
  EXPECT_EQ(Feed(p, "g"), FinishReason::kContextLimit);
  EXPECT_EQ(delta_.text, "abcdefg");
}

TEST_F(OutputProcessorTest, IgnoreEosGoesOn) {
  request_.stopping.ignore_eos = true;
  OutputProcessor p(request_, model_, &tokenizer_);
  EXPECT_EQ(Feed(p, std::string("a\0b", 3)), std::nullopt);
  EXPECT_EQ(delta_.text, "ab");  // the special token is skipped
}

TEST_F(OutputProcessorTest, StopTokenWinsOverTheEndTokensName) {
  request_.stopping.stop_token_ids = {kFakeEos};
  OutputProcessor p(request_, model_, &tokenizer_);
  EXPECT_EQ(Feed(p, std::string("a\0", 2)), FinishReason::kStopToken);
}

TEST_F(OutputProcessorTest, IncludedStopTokenIsShown) {
  request_.stopping.stop_token_ids = {'c'};
  request_.stopping.include_stop_in_output = true;
  OutputProcessor p(request_, model_, &tokenizer_);
  EXPECT_EQ(Feed(p, "abc"), FinishReason::kStopToken);
  EXPECT_EQ(delta_.text + p.Flush(), "abc");
}

TEST_F(OutputProcessorTest, HeldTextIsFlushed) {
  request_.stopping.stop_strings = {"xyz"};
  OutputProcessor p(request_, model_, &tokenizer_);
  EXPECT_EQ(Feed(p, "axy"), std::nullopt);
  EXPECT_EQ(delta_.text, "a");
  EXPECT_EQ(p.Flush(), "xy");
}

}  // namespace
}  // namespace tauserve
