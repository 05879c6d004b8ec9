// A model that keeps its logits on a device: requests get the same tokens, and rows are fetched only where they must be.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <future>
#include <string>
#include <vector>

#include "tests/server/engine/engine_fixture.h"

namespace tauserve {
namespace {

using testing::HasSubstr;

class TopLogitsEngineTest : public EngineTest {
 protected:
  // `top_logits` as FakeModel's.
  void StartOn(int top_logits) {
    if (engine_) engine_->Shutdown();
    EngineOptions options;
    options.max_batched_tokens = 40;
    Start(options, 200);
    model_->top_logits = top_logits;
    model_->on_logits = [](int32_t last, int32_t position, absl::Span<float> logits) {
      for (size_t t = 0; t < logits.size(); t++) {
        logits[t] = static_cast<float>((last * 31 + position * 7 + t * t) % 97) / 8;
      }
    };
  }
  std::vector<FakeRequest> Requests() {
    std::vector<FakeRequest> all;
    for (int i = 0; i < 14; i++) {
      all.push_back(MakeFakeRequest("r" + std::to_string(i), 5 + i, 30, i));
      SamplingParams& p = all.back().request->sampling;
      p.seed = i;
      p.temperature = i % 7 == 0 ? 0 : 1;
      if (i % 7 == 1) p.top_k = 5;
      if (i % 7 == 2) p.top_p = 0.5f;
      if (i % 7 == 3) p.min_p = 0.2f;
      if (i % 7 == 4) p.top_k = 40, p.top_p = 0.8f, p.repetition_penalty = 1.2f;
      if (i % 7 == 5) p.presence_penalty = -0.5f;
      all.back().request->stopping.min_new_tokens = i % 2 ? 10 : 0;
      all.back().request->stopping.stop_token_ids = {8, 9};
      if (i % 3 == 0) all.back().request->output.top_logprobs = 2;
    }
    return all;
  }
  void Run(std::vector<FakeRequest>& requests) {
    for (FakeRequest& f : requests) ASSERT_TRUE(engine_->Submit(f.request).ok());
    for (FakeRequest& f : requests) EXPECT_TRUE(f.sink->Wait().status.ok());
    engine_->Drain(absl::InfiniteDuration());
  }
};

TEST_F(TopLogitsEngineTest, TokensAreThoseOfWholeRows) {
  StartOn(0);
  std::vector<FakeRequest> expected = Requests();
  Run(expected);
  for (int top_logits : {2, 20, 250}) {
    SCOPED_TRACE(top_logits);
    StartOn(top_logits);
    std::vector<FakeRequest> all = Requests();
    Run(all);
    for (size_t i = 0; i < all.size(); i++) {
      EXPECT_EQ(all[i].sink->tokens(), expected[i].sink->tokens()) << i;
      const std::vector<Delta> deltas = all[i].sink->deltas();
      const std::vector<Delta> expected_deltas = expected[i].sink->deltas();
      ASSERT_EQ(deltas.size(), expected_deltas.size());
      for (size_t d = 0; d < deltas.size(); d++) {
        ASSERT_EQ(deltas[d].logprobs.size(), expected_deltas[d].logprobs.size());
        for (size_t t = 0; t < deltas[d].logprobs.size(); t++) {
          EXPECT_EQ(deltas[d].logprobs[t].rank, expected_deltas[d].logprobs[t].rank);
          EXPECT_NEAR(deltas[d].logprobs[t].logprob, expected_deltas[d].logprobs[t].logprob, 1e-5);
        }
      }
    }
    // Those without truncation (6, 13) and with a penalty that may raise logits (5, 12).
    int whole = 0;
    for (int i : {5, 6, 12, 13}) whole += static_cast<int>(all[i].sink->tokens().size());
    EXPECT_EQ(model_->whole_rows, whole);
    EXPECT_EQ(model_->fetched_rows > 0, top_logits < 40);
  }
}

TEST_F(TopLogitsEngineTest, GreedyTiesAtTheBoundAreFetched) {
  StartOn(3);
  model_->on_logits = [](int32_t, int32_t position, absl::Span<float> logits) {
    for (float& x : logits) x = 0;
    for (int t : {7, 17, 27, 37}) logits[t] = 1;  // more than the device keeps
    if (position % 2) logits[99] = 2;
  };
  FakeRequest f = MakeFakeRequest("a", 1, 10);
  ASSERT_TRUE(engine_->Submit(f.request).ok());
  f.sink->Wait();
  EXPECT_THAT(f.sink->tokens(), testing::ElementsAre(7, 99, 7, 99, 7, 99, 7, 99, 7, 99));
  engine_->Drain(absl::InfiniteDuration());
  EXPECT_EQ(model_->whole_rows, 0);
  EXPECT_EQ(model_->fetched_rows, 5);
}

TEST_F(TopLogitsEngineTest, UnusableLogitsEndOneRequestOnly) {
  StartOn(8);
  model_->on_logits = [](int32_t last, int32_t, absl::Span<float> logits) {
    if (last == 77) logits[3] = NAN;
  };
  FakeRequest bad = MakeFakeRequest("bad", 1, 5, 77), good = MakeFakeRequest("good", 1, 5, 200);
  ASSERT_TRUE(engine_->Submit(bad.request).ok());
  ASSERT_TRUE(engine_->Submit(good.request).ok());
  EXPECT_EQ(bad.sink->Wait().status, absl::InternalError("request bad: logit of token 3 is nan"));
  EXPECT_TRUE(good.sink->Wait().status.ok());
}

TEST_F(TopLogitsEngineTest, AFailedFetchEndsAllRequests) {
  std::promise<absl::Status> told;
  EngineOptions options;
  options.on_failure = [&](const absl::Status& failure) { told.set_value(failure); };
  Start(options);
  model_->top_logits = 3;
  model_->on_logits = [](int32_t, int32_t, absl::Span<float> logits) {
    for (float& x : logits) x = 0;
  };
  model_->fetch_failure = absl::InternalError("cuda: an illegal memory access");
  FakeRequest a = HoldWith("a", 10, 5), b = MakeFakeRequest("b", 10, 5);
  ASSERT_TRUE(engine_->Submit(b.request).ok());
  model_->Release();
  for (const FakeRequest& f : {a, b}) {
    const Completion c = f.sink->Wait();
    EXPECT_EQ(c.status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(c.status.message()), HasSubstr("illegal memory access"));
    EXPECT_EQ(f.sink->ends(), 1);
  }
  EXPECT_EQ(told.get_future().get(), model_->fetch_failure);
}

}  // namespace
}  // namespace tauserve
