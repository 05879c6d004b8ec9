// Constrained requests: what they get, how they end, beside other requests and through preemption.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "server/constraint/constraint_cache.h"
#include "tests/server/engine/engine_fixture.h"

namespace tauserve {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;
using testing::StartsWith;

class ConstraintEngineTest : public EngineTest {
 protected:
  FakeRequest Constrained(const std::string& id, const std::string& regex, int max_new,
                          int prompt = 5) {
    FakeRequest f = MakeFakeRequest(id, prompt, max_new);
    f.request->sampling.constraint = *cache_.Get({ConstraintSpec::Kind::kRegex, regex});
    return f;
  }
  Completion Run(const FakeRequest& f) {
    EXPECT_TRUE(engine_->Submit(f.request).ok());
    return f.sink->Wait();
  }
  ConstraintCache cache_{&tokenizer_, kFakeVocab, 1 << 20, nullptr};
};

TEST_F(ConstraintEngineTest, EndsWhereNothingMayFollow) {
  Start();
  FakeRequest f = Constrained("a", "x[0-9]{3}y", 100);
  const Completion c = Run(f);
  EXPECT_EQ(c.reason, FinishReason::kConstraintComplete);
  EXPECT_THAT(f.sink->text(), MatchesRegex("x[0-9][0-9][0-9]y"));
  EXPECT_EQ(c.new_tokens, 5);
  // Also where that is before min_new_tokens, and at the same token as max_new_tokens.
  f = Constrained("b", "x[0-9]{3}y", 5);
  f.request->stopping.min_new_tokens = 5;
  EXPECT_EQ(Run(f).reason, FinishReason::kConstraintComplete);
  f = Constrained("c", "xy", 50);
  f.request->stopping.min_new_tokens = 50;
  EXPECT_EQ(Run(f).reason, FinishReason::kConstraintComplete);
  EXPECT_EQ(f.sink->text(), "xy");
  f = Constrained("d", "x[0-9]{30}y", 5);
  EXPECT_EQ(Run(f).reason, FinishReason::kMaxNewTokens);
  EXPECT_THAT(f.sink->text(), StartsWith("x"));
}

// The model wants nothing but to end.
TEST_F(ConstraintEngineTest, EndTokensComeOnlyWhereTheTextMatches) {
  Start();
  model_->on_logits = [](int32_t, int32_t, absl::Span<float> logits) {
    for (float& x : logits) x = 0;
    logits[kFakeEos] = logits['b'] = 10;
  };
  FakeRequest f = Constrained("a", "ab*a*", 100);
  Completion c = Run(f);
  EXPECT_EQ(c.reason, FinishReason::kEosToken);
  EXPECT_EQ(f.sink->text(), "a");
  f = Constrained("b", "ab{2,}", 100);
  EXPECT_EQ(Run(f).reason, FinishReason::kEosToken);
  EXPECT_EQ(f.sink->text(), "abb");
  f = Constrained("c", "ab*", 100);
  f.request->stopping.min_new_tokens = 4;
  EXPECT_EQ(Run(f).reason, FinishReason::kEosToken);
  EXPECT_EQ(f.sink->text(), "abbb" + std::string(f.sink->tokens().size() - 5, 'b'));
  f = Constrained("d", "ab*", 6);
  f.request->stopping.ignore_eos = true;
  EXPECT_EQ(Run(f).reason, FinishReason::kMaxNewTokens);
  EXPECT_EQ(f.sink->text(), "abbbbb");
  f = Constrained("e", "cb*d", 100);  // 'b' ends it, too: only where the text matches, so never
  f.request->stopping.stop_token_ids = {'b'};
  EXPECT_EQ(Run(f).reason, FinishReason::kConstraintComplete);
  EXPECT_EQ(f.sink->text(), "cd");
}

TEST_F(ConstraintEngineTest, StopStringsStillEnd) {
  Start();
  FakeRequest f = Constrained("a", "one, two, three", 100);
  f.request->stopping.stop_strings = {", tw"};
  EXPECT_EQ(Run(f).reason, FinishReason::kStopString);
  EXPECT_EQ(f.sink->text(), "one");
}

// Sampled, with all that changes logits, on a model that gives only the largest ones: the row is asked for as a whole.
TEST_F(ConstraintEngineTest, AnyParametersAndPartialRows) {
  for (int top_logits : {0, 20}) {
    if (engine_) engine_->Shutdown();
    Start();
    model_->top_logits = top_logits;
    for (int i = 0; i < 30; i++) {
      FakeRequest f = Constrained("r" + std::to_string(i), "([a-c]{2}-)*[d-f]{4}", 400);
      SamplingParams& p = f.request->sampling;
      p.seed = i;
      p.temperature = i % 3;
      p.top_k = i % 4;
      p.top_p = i % 2 ? 0.4f : 1;
      p.repetition_penalty = 1.3f;
      p.logit_bias['d'] = 3;
      p.logit_bias['z'] = 100;
      if (i % 5 == 0) f.request->output.top_logprobs = 3;
      const Completion c = Run(f);
      ASSERT_TRUE(c.status.ok()) << c.status;
      if (c.reason == FinishReason::kMaxNewTokens) continue;
      EXPECT_EQ(c.reason, FinishReason::kConstraintComplete);
      EXPECT_THAT(f.sink->text(), MatchesRegex("([a-c][a-c]-)*[d-f][d-f][d-f][d-f]"));
    }
    engine_->Drain(absl::InfiniteDuration());
    EXPECT_EQ(model_->fetched_rows, 0);
  }
}

TEST_F(ConstraintEngineTest, PreemptionIsOnlyAPause) {
  const std::string regex = "(ab|cd|efg)*";
  std::vector<std::string> alone, together;
  for (int pages : {64, 6}) {
    if (engine_) engine_->Shutdown();
    Start({.enable_prefix_cache = false}, pages);
    std::vector<FakeRequest> requests;
    for (int i = 0; i < 2; i++) {
      requests.push_back(Constrained("r" + std::to_string(i), regex, 250, 60));
      requests.back().request->sampling.temperature = 1;
      requests.back().request->sampling.seed = i;
      requests.back().request->stopping.ignore_eos = true;
      ASSERT_TRUE(engine_->Submit(requests.back().request).ok());
    }
    int preemptions = 0;
    for (const FakeRequest& f : requests) {
      preemptions += f.sink->Wait().preemptions;
      EXPECT_EQ(f.sink->Wait().new_tokens, 250);
      (pages == 6 ? together : alone).push_back(f.sink->text());
    }
    EXPECT_EQ(preemptions > 0, pages == 6);
  }
  EXPECT_EQ(alone, together);
}

// A vocabulary that can't spell what the constraint asks for, and a constraint that is too ambiguous further on: these
// requests end with a status, others go on.
TEST_F(ConstraintEngineTest, WhatCannotGoOnEndsOneRequestOnly) {
  Start();
  FakeRequest other = MakeFakeRequest("other", 5, 200);
  ASSERT_TRUE(engine_->Submit(other.request).ok());
  FakeRequest dead = Constrained("dead", "ab", 100);
  dead.request->sampling.constraint =
      *cache_.Get({ConstraintSpec::Kind::kRegex, std::string("a\\x00")});  // the end token's byte
  const Completion c = Run(dead);
  EXPECT_EQ(c.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(c.status.message()), HasSubstr("request dead: no token"));
  FakeRequest wide = Constrained("wide", "([a-z]{1,150}[a-z]{1,150}){1,100}", 1000);
  wide.request->stopping.ignore_eos = true;
  const Completion w = Run(wide);
  EXPECT_EQ(w.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(w.status.message()), HasSubstr("too ambiguous"));
  EXPECT_TRUE(other.sink->Wait().status.ok());
  EXPECT_EQ(other.sink->tokens(), ExpectedTokens(*other.request));
}

}  // namespace
}  // namespace tauserve
