#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "tests/server/engine/engine_fixture.h"

namespace tauserve {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST_F(EngineTest, GeneratesWhatTheModelSays) {
  Start({.max_batched_tokens = 50});
  FakeRequest f = MakeFakeRequest("a", 120, 5);
  ASSERT_TRUE(engine_->Submit(f.request).ok());
  const Completion c = f.sink->Wait();
  EXPECT_TRUE(c.status.ok());
  EXPECT_EQ(c.reason, FinishReason::kMaxNewTokens);
  EXPECT_EQ(c.prompt_tokens, 120);
  EXPECT_EQ(c.new_tokens, 5);
  EXPECT_EQ(f.sink->tokens(), ExpectedTokens(*f.request));
  EXPECT_THAT(f.sink->progress(), ElementsAre(50, 100, 120));
  EXPECT_EQ(c.prefill_attention.keys_considered, 120);
  EXPECT_EQ(c.decode_attention.keys_considered, 4);
  EXPECT_GE(c.total, c.time_to_first_token);
  EXPECT_GE(c.time_to_first_token, c.queue);
}

TEST_F(EngineTest, ManyAtOnceGetTheSameAsAlone) {
  Start({.max_batched_tokens = 64, .max_running_requests = 8}, 200);
  std::vector<FakeRequest> all;
  for (int i = 0; i < 30; i++) {
    all.push_back(MakeFakeRequest("r" + std::to_string(i), 1 + i * 7, 1 + i % 9, i));
    ASSERT_TRUE(engine_->Submit(all.back().request).ok());
  }
  for (FakeRequest& f : all) {
    EXPECT_TRUE(f.sink->Wait().status.ok());
    EXPECT_EQ(f.sink->tokens(), ExpectedTokens(*f.request));
  }
}

TEST_F(EngineTest, RepeatedPromptsComeFromThePrefixCache) {
  Start();
  FakeRequest a = MakeFakeRequest("a", 200, 3), b = MakeFakeRequest("b", 200, 3);
  FakeRequest salted = MakeFakeRequest("c", 200, 3), bypass = MakeFakeRequest("d", 200, 3);
  salted.request->cache_salt = "tenant";
  bypass.request->bypass_prefix_cache = true;
  for (FakeRequest* f : {&a, &b, &salted, &bypass}) {
    ASSERT_TRUE(engine_->Submit(f->request).ok());
    f->sink->Wait();
    EXPECT_EQ(f->sink->tokens(), ExpectedTokens(*f->request));
  }
  EXPECT_EQ(a.sink->cached_tokens(), 0);
  EXPECT_EQ(b.sink->cached_tokens(), 192);
  EXPECT_EQ(salted.sink->cached_tokens(), 0);
  EXPECT_EQ(bypass.sink->cached_tokens(), 0);
  EXPECT_EQ(engine_->load().pages_free, 64);  // kept pages count as free
  EXPECT_GT(engine_->ClearPrefixCache(), 0);
  FakeRequest again = MakeFakeRequest("e", 200, 3);
  ASSERT_TRUE(engine_->Submit(again.request).ok());
  again.sink->Wait();
  EXPECT_EQ(again.sink->cached_tokens(), 0);
}

TEST_F(EngineTest, RefusesWithTheNumbers) {
  Start({.max_running_requests = 1, .max_waiting_requests = 2}, 4);
  FakeRequest large = MakeFakeRequest("large", 200, 100);
  absl::Status s = engine_->Submit(large.request);
  EXPECT_EQ(s.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(s.message()),
              testing::AllOf(HasSubstr("200"), HasSubstr("100"), HasSubstr("257")));
  FakeRequest running = HoldWith("a", 10, 5);
  s = engine_->Submit(MakeFakeRequest("a", 10, 5).request);
  EXPECT_EQ(s.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(engine_->Submit(MakeFakeRequest("b", 10, 5).request).ok());
  EXPECT_TRUE(engine_->Submit(MakeFakeRequest("c", 10, 5).request).ok());
  s = engine_->Submit(MakeFakeRequest("d", 10, 5).request);
  EXPECT_EQ(s.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(s.message()),
              testing::AllOf(HasSubstr("2 requests"), HasSubstr("limit is 2")));
  EXPECT_GT(engine_->RetryDelay(), absl::ZeroDuration());
  model_->Release();
  running.sink->Wait();
}

TEST_F(EngineTest, RefusesByPromptTokensButNotOneAlone) {
  Start({.max_running_requests = 1, .max_waiting_prompt_tokens = 50});
  FakeRequest running = HoldWith("a", 10, 5);
  // Longer than the limit, but alone in the queue.
  EXPECT_TRUE(engine_->Submit(MakeFakeRequest("b", 60, 5).request).ok());
  const absl::Status s = engine_->Submit(MakeFakeRequest("c", 7, 5).request);
  EXPECT_EQ(s.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(s.message()),
              testing::AllOf(HasSubstr("60"), HasSubstr("7 more than"), HasSubstr("50")));
  model_->Release();
  running.sink->Wait();
}

TEST_F(EngineTest, RefusesWhatCannotMakeItsDeadline) {
  Start({.max_running_requests = 1});
  // The service rate is measured while others wait.
  FakeRequest running = HoldWith("a", 10, 5);
  std::vector<FakeRequest> others;
  for (const char* id : {"b", "c", "d"}) {
    others.push_back(MakeFakeRequest(id, 10, 5));
    ASSERT_TRUE(engine_->Submit(others.back().request).ok());
  }
  model_->Release();
  for (FakeRequest& f : others) f.sink->Wait();
  running = HoldWith("e", 10, 5);
  FakeRequest waiting = MakeFakeRequest("f", 10, 5);
  ASSERT_TRUE(engine_->Submit(waiting.request).ok());
  FakeRequest late = MakeFakeRequest("late", 10, 5);
  late.request->deadline = absl::Now();
  const absl::Status s = engine_->Submit(late.request);
  EXPECT_EQ(s.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(s.message()), HasSubstr("1 requests that wait"));
  EXPECT_EQ(late.sink->ends(), 0);
  model_->Release();
  waiting.sink->Wait();
}

// Two requests that do not fit the cache together to their ends: the younger one pauses, and both give what they give
// alone.
TEST_F(EngineTest, PreemptionIsOnlyAPause) {
  Start({.enable_prefix_cache = false}, 6);
  FakeRequest a = MakeFakeRequest("a", 60, 250, 1), b = MakeFakeRequest("b", 60, 250, 2);
  ASSERT_TRUE(engine_->Submit(a.request).ok());
  ASSERT_TRUE(engine_->Submit(b.request).ok());
  const Completion first = a.sink->Wait(), second = b.sink->Wait();
  EXPECT_TRUE(first.status.ok() && second.status.ok()) << first.status << second.status;
  EXPECT_EQ(first.preemptions, 0);
  EXPECT_GT(second.preemptions, 0);
  EXPECT_EQ(a.sink->tokens(), ExpectedTokens(*a.request));
  EXPECT_EQ(b.sink->tokens(), ExpectedTokens(*b.request));
  EXPECT_EQ(b.sink->ends(), 1);
  engine_->Drain(absl::Seconds(10));
  EXPECT_EQ(engine_->load().pages_free, 6);
}

TEST_F(EngineTest, NanLogitsEndOneRequestOnly) {
  Start();
  model_->on_logits = [](int32_t last, int32_t, absl::Span<float> logits) {
    if (last == 77) logits[3] = std::nanf("");
  };
  FakeRequest bad = MakeFakeRequest("bad", 1, 5, 77), good = MakeFakeRequest("good", 1, 5, 200);
  ASSERT_TRUE(engine_->Submit(bad.request).ok());
  ASSERT_TRUE(engine_->Submit(good.request).ok());
  const absl::Status s = bad.sink->Wait().status;
  EXPECT_EQ(s.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(s.message()), HasSubstr("bad"));
  EXPECT_TRUE(good.sink->Wait().status.ok());
}

TEST_F(EngineTest, SampledTokensDoNotDependOnTheCompany) {
  Start({.max_batched_tokens = 40, .max_running_requests = 8}, 200);
  model_->on_logits = [](int32_t last, int32_t position, absl::Span<float> logits) {
    for (size_t t = 1; t < logits.size(); t++) logits[t] = (last * 31 + position * 7 + t * t) % 13;
    logits[kFakeEos] = -100;
  };
  auto make = [](const std::string& id) {
    FakeRequest f = MakeFakeRequest(id, 30, 40);
    f.request->sampling.temperature = 1.5f;
    f.request->sampling.top_p = 0.9f;
    f.request->sampling.seed = 77;
    return f;
  };
  FakeRequest alone = make("alone");
  ASSERT_TRUE(engine_->Submit(alone.request).ok());
  alone.sink->Wait();
  std::vector<FakeRequest> all;
  for (int i = 0; i < 12; i++) {
    all.push_back(i == 6 ? make("same") : MakeFakeRequest(std::to_string(i), 5 + i, 50, i));
    all.back().request->sampling.temperature = 1.5f;
    ASSERT_TRUE(engine_->Submit(all.back().request).ok());
  }
  for (FakeRequest& f : all) f.sink->Wait();
  EXPECT_EQ(all[6].sink->tokens(), alone.sink->tokens());
  EXPECT_NE(all[5].sink->tokens(), alone.sink->tokens());
}

TEST_F(EngineTest, LogprobsComeWithTheirTokens) {
  Start();
  FakeRequest f = MakeFakeRequest("a", 10, 3);
  f.request->output.top_logprobs = 2;
  ASSERT_TRUE(engine_->Submit(f.request).ok());
  f.sink->Wait();
  for (const Delta& d : f.sink->deltas()) {
    ASSERT_EQ(d.logprobs.size(), d.tokens.size());
    EXPECT_EQ(d.logprobs[0].token, d.tokens[0]);
    EXPECT_EQ(d.logprobs[0].rank, 1);
    EXPECT_NEAR(d.logprobs[0].logprob, 10 - std::log(std::exp(10.0) + kFakeVocab - 1), 1e-5);
    EXPECT_EQ(d.logprobs[0].top.size(), 2u);
  }
}

// One runs, others wait: after a few ends the delay is that of the fake model's quick steps, not the first guess.
TEST_F(EngineTest, RetryDelayFollowsTheServiceRate) {
  Start({.max_running_requests = 1});
  const absl::Duration guess = engine_->RetryDelay();
  std::vector<FakeRequest> all = {HoldWith("first", 10, 3)};
  for (int i = 0; i < 40; i++) {
    all.push_back(MakeFakeRequest(std::to_string(i), 10, 3));
    ASSERT_TRUE(engine_->Submit(all.back().request).ok());
  }
  model_->Release();
  for (FakeRequest& f : all) f.sink->Wait();
  EXPECT_LT(engine_->RetryDelay(), guess);
}

}  // namespace
}  // namespace tauserve
