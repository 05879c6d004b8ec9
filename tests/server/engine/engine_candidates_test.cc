// Several candidates of one request: each is what it would be alone, and they begin, go and end together.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "tests/server/engine/engine_fixture.h"

namespace tauserve {
namespace {

using testing::HasSubstr;

class CandidatesEngineTest : public EngineTest {
 protected:
  void Start(EngineOptions options = {}, int32_t pages = 64) {
    EngineTest::Start(options, pages);
    // Many tokens are likely, which ones depends on all that came before.
    model_->on_logits = [](int32_t, int32_t position, absl::Span<float> row) {
      int32_t likely = 0;
      while (row[likely] != 10) likely++;
      for (int t = 0; t < kFakeVocab; t++) {
        row[t] = 3 * std::sin(0.7f * t + 1.3f * likely + 0.1f * position);
      }
    };
  }
  FakeRequest Make(const std::string& id, int candidates, int prompt = 150, int max_new = 40) {
    FakeRequest f = MakeFakeRequest(id, prompt, max_new);
    f.request->sampling.num_candidates = candidates;
    f.request->sampling.temperature = 1;
    f.request->sampling.seed = 7;
    f.request->stopping.ignore_eos = true;
    return f;
  }
  // What candidate `i` of it should get: the request alone, with the seed that lies so far behind.
  FakeRequest Alone(const FakeRequest& of, int i) {
    FakeRequest f{std::make_shared<Request>(*of.request), std::make_shared<RecordingSink>()};
    f.request->id = of.request->id + "-" + std::to_string(i);
    f.request->sampling.num_candidates = 1;
    f.request->sampling.seed += i;
    f.request->sink = f.sink;
    EXPECT_TRUE(engine_->Submit(f.request).ok());
    f.sink->Wait();
    return f;
  }
  void ExpectAsAlone(const FakeRequest& f) {
    for (int i = 0; i < f.request->sampling.num_candidates; i++) {
      const FakeRequest alone = Alone(f, i);
      EXPECT_EQ(f.sink->tokens(i), alone.sink->tokens()) << "candidate " << i;
      EXPECT_EQ(f.sink->text(i), alone.sink->text());
      EXPECT_EQ(f.sink->finish(i).reason, alone.sink->finish().reason);
      EXPECT_EQ(f.sink->finish(i).stop_token, alone.sink->finish().stop_token);
    }
  }
};

TEST_F(CandidatesEngineTest, EachIsWhatItsSeedGivesAlone) {
  Start();
  for (int prompt : {1, 63, 64, 150}) {
    FakeRequest f = Make("p" + std::to_string(prompt), 4, prompt, 100);
    ASSERT_TRUE(engine_->Submit(f.request).ok());
    const Completion c = f.sink->Wait();
    EXPECT_EQ(c.prompt_tokens, prompt);
    EXPECT_EQ(c.new_tokens, 400);
    EXPECT_EQ(f.sink->progress().back(), prompt);  // computed once
    EXPECT_NE(f.sink->tokens(0), f.sink->tokens(1));
    EXPECT_NE(f.sink->tokens(1), f.sink->tokens(2));
    ExpectAsAlone(f);
  }
}

TEST_F(CandidatesEngineTest, GreedyOnesAreEqual) {
  EngineTest::Start();
  FakeRequest f = MakeFakeRequest("greedy", 100, 70);
  f.request->sampling.num_candidates = 5;
  f.request->output.top_logprobs = 2;
  ASSERT_TRUE(engine_->Submit(f.request).ok());
  f.sink->Wait();
  for (int i = 0; i < 5; i++) EXPECT_EQ(f.sink->tokens(i), ExpectedTokens(*f.request));
  int logprobs = 0;
  for (const Delta& d : f.sink->deltas()) logprobs += static_cast<int>(d.logprobs.size());
  EXPECT_EQ(logprobs, 5 * 70);
}

TEST_F(CandidatesEngineTest, EachEndsWhenItEnds) {
  Start();
  FakeRequest f = Make("ends", 6, 40, 200);
  for (int t = 0; t < 8; t++) f.request->stopping.stop_token_ids.push_back(10 + t);
  ASSERT_TRUE(engine_->Submit(f.request).ok());
  const Completion c = f.sink->Wait();
  size_t tokens = 0, longest = 0, shortest = 1000;
  for (int i = 0; i < 6; i++) {
    const size_t n = f.sink->tokens(i).size();
    tokens += n;
    longest = std::max(longest, n);
    shortest = std::min(shortest, n);
  }
  EXPECT_EQ(c.new_tokens, static_cast<int32_t>(tokens));
  EXPECT_LT(shortest, longest);
  ExpectAsAlone(f);
}

TEST_F(CandidatesEngineTest, PreemptedOnesGoOnAsBefore) {
  for (bool cached : {false, true}) {
    EngineOptions options;
    options.enable_prefix_cache = cached;
    Start(options, 8);
    FakeRequest f = Make("f", 3, 70, 200), g = Make("g", 2, 90, 200);
    ASSERT_TRUE(engine_->Submit(f.request).ok());
    ASSERT_TRUE(engine_->Submit(g.request).ok());
    const int preemptions = f.sink->Wait().preemptions + g.sink->Wait().preemptions;
    EXPECT_GT(preemptions, 0);
    ExpectAsAlone(f);
    ExpectAsAlone(g);
    TearDown();
    engine_.reset();
  }
}

TEST_F(CandidatesEngineTest, AllEndTogether) {
  Start({}, 8000);
  FakeRequest cancelled = Make("cancelled", 4, 150, 100000),
              aborted = Make("aborted", 3, 90, 100000);
  ASSERT_TRUE(engine_->Submit(cancelled.request).ok());
  cancelled.sink->WaitForTokens(3);
  engine_->Cancel("cancelled");
  EXPECT_EQ(cancelled.sink->Wait().status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(cancelled.sink->finished(), 0);
  ASSERT_TRUE(engine_->Submit(aborted.request).ok());
  aborted.sink->WaitForTokens(3);
  EXPECT_EQ(engine_->Abort({"aborted"}).size(), 1u);
  const Completion c = aborted.sink->Wait();
  EXPECT_EQ(c.reason, FinishReason::kAborted);
  EXPECT_EQ(aborted.sink->finished(), 3);
  for (int i = 0; i < 3; i++) EXPECT_EQ(aborted.sink->finish(i).reason, FinishReason::kAborted);

  FakeRequest late = Make("late", 4, 150, 100000);
  late.request->deadline = absl::Now() + absl::Milliseconds(20);
  ASSERT_TRUE(engine_->Submit(late.request).ok());
  EXPECT_EQ(late.sink->Wait().status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(engine_->load().pages_free, engine_->load().pages_total);
}

TEST_F(CandidatesEngineTest, CancelledBeforeThePromptIsComputed) {
  Start({.max_batched_tokens = 64});
  model_->Hold();
  FakeRequest f = Make("f", 4, 300);
  ASSERT_TRUE(engine_->Submit(f.request).ok());
  model_->WaitUntilHeld();
  EXPECT_EQ(engine_->load().running_requests, 1);
  engine_->Cancel("f");
  model_->Release();
  EXPECT_EQ(f.sink->Wait().status.code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(f.sink->tokens().empty());
}

TEST_F(CandidatesEngineTest, OneRequestIsOneInTheLoad) {
  Start();
  FakeRequest f = Make("f", 4, 150, 3000);
  ASSERT_TRUE(engine_->Submit(f.request).ok());
  f.sink->WaitForTokens(2);
  model_->Hold();
  model_->WaitUntilHeld();
  EXPECT_EQ(engine_->load().running_requests, 1);
  EXPECT_EQ(engine_->load().waiting_requests, 0);
  engine_->Cancel("f");
  model_->Release();
  f.sink->Wait();
}

TEST_F(CandidatesEngineTest, WhatOneCannotSampleEndsTheRequest) {
  Start();
  FakeRequest f = Make("f", 4, 10);
  f.request->sampling.allowed_token_ids = {5, 6};
  f.request->sampling.bad_words = {{5, 5}, {5, 6}, {6, 6, 5}, {6, 6, 6}, {6, 5}};
  ASSERT_TRUE(engine_->Submit(f.request).ok());
  const Completion c = f.sink->Wait();
  EXPECT_EQ(c.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(c.status.message()), HasSubstr("request f"));
  EXPECT_THAT(std::string(c.status.message()), HasSubstr("no token to choose"));
}

TEST_F(CandidatesEngineTest, MoreThanMayRunAreRefused) {
  Start({.max_running_requests = 4});
  FakeRequest f = Make("f", 5);
  const absl::Status s = engine_->Submit(f.request);
  EXPECT_EQ(s.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(s.message()), HasSubstr("num_candidates is 5"));
  EXPECT_THAT(std::string(s.message()), HasSubstr("the 4 that run"));
}

}  // namespace
}  // namespace tauserve
