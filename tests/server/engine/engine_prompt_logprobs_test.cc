// Log-probabilities of prompts against a plain statement of them, however the prompt was computed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "tests/server/engine/engine_fixture.h"

namespace tauserve {
namespace {

constexpr int kTop = 3;

// The logits behind `token` at `position`.
float LogitOf(int32_t token, int32_t position, int t) {
  return 4 * std::sin(0.9f * t + 2.1f * token + 0.3f * position);
}

class PromptLogprobsTest : public EngineTest {
 protected:
  void Start(EngineOptions options = {}, int32_t pages = 64) {
    EngineTest::Start(options, pages);
    model_->on_logits = [](int32_t token, int32_t position, absl::Span<float> row) {
      for (int t = 0; t < kFakeVocab; t++) row[t] = LogitOf(token, position, t);
    };
  }
  FakeRequest Ask(const std::string& id, int prompt, int max_new = 2) {
    FakeRequest f = MakeFakeRequest(id, prompt, max_new);
    f.request->output.top_prompt_logprobs = kTop;
    f.request->stopping.ignore_eos = true;
    EXPECT_TRUE(engine_->Submit(f.request).ok());
    return f;
  }
  static void ExpectRight(const FakeRequest& f) {
    const std::vector<int32_t>& prompt = f.request->prompt;
    const std::vector<TokenLogprob> got = f.sink->prompt_logprobs();
    ASSERT_EQ(got.size(), prompt.size());
    EXPECT_EQ(got[0].token, prompt[0]);
    EXPECT_EQ(got[0].rank, 0);
    EXPECT_TRUE(got[0].top.empty());
    for (size_t i = 1; i < prompt.size(); i++) {
      std::vector<double> logits(kFakeVocab);
      double sum = 0;
      for (int t = 0; t < kFakeVocab; t++) {
        logits[t] = LogitOf(prompt[i - 1], static_cast<int32_t>(i) - 1, t);
        sum += std::exp(logits[t]);
      }
      std::vector<int> ranked(kFakeVocab);
      std::iota(ranked.begin(), ranked.end(), 0);
      std::stable_sort(ranked.begin(), ranked.end(),
                       [&](int a, int b) { return logits[a] > logits[b]; });
      ASSERT_EQ(got[i].token, prompt[i]);
      ASSERT_NEAR(got[i].logprob, logits[prompt[i]] - std::log(sum), 1e-5) << "token " << i;
      ASSERT_EQ(ranked[got[i].rank - 1], prompt[i]);
      ASSERT_EQ(got[i].top.size(), size_t{kTop});
      for (int k = 0; k < kTop; k++) {
        ASSERT_EQ(got[i].top[k].first, ranked[k]);
        ASSERT_NEAR(got[i].top[k].second, logits[ranked[k]] - std::log(sum), 1e-5);
      }
    }
  }
};

TEST_F(PromptLogprobsTest, AreTheLogSoftmaxOfTheLogitsBefore) {
  Start();
  for (int prompt : {1, 2, 64, 128, 129, 700}) {
    FakeRequest f = Ask("p" + std::to_string(prompt), prompt);
    EXPECT_EQ(f.sink->Wait().new_tokens, 2);
    EXPECT_EQ(f.sink->progress().size(), static_cast<size_t>((prompt + 127) / 128));
    ExpectRight(f);
  }
}

// As on a device that keeps the logits: most are decided by the largest, others need the row.
TEST_F(PromptLogprobsTest, AreTheSameFromTheLargestLogits) {
  Start();
  model_->top_logits = 100;
  FakeRequest f = Ask("f", 300);
  f.sink->Wait();
  ExpectRight(f);
  engine_->Drain(absl::InfiniteDuration());
  EXPECT_GT(model_->fetched_rows, 10);
  EXPECT_LT(model_->fetched_rows, 290);
  EXPECT_EQ(model_->whole_rows, 0);
}

TEST_F(PromptLogprobsTest, CachedPagesAreComputedAnewAndLeftForOthers) {
  Start();
  for (const char* id : {"first", "second"}) {
    FakeRequest f = Ask(id, 200);
    EXPECT_EQ(f.sink->Wait().cached_tokens, 0);
    ExpectRight(f);
  }
  FakeRequest plain = MakeFakeRequest("plain", 200, 2);
  ASSERT_TRUE(engine_->Submit(plain.request).ok());
  EXPECT_EQ(plain.sink->Wait().cached_tokens, 192);
  EXPECT_TRUE(plain.sink->prompt_logprobs().empty());
}

TEST_F(PromptLogprobsTest, APreemptedPromptTellsNothingTwice) {
  EngineOptions options;
  options.max_batched_tokens = 2;
  Start(options, 8);
  FakeRequest older = MakeFakeRequest("older", 10, 400);
  older.request->stopping.ignore_eos = true;
  model_->Hold();
  ASSERT_TRUE(engine_->Submit(older.request).ok());
  model_->WaitUntilHeld();
  FakeRequest f = Ask("f", 300);
  model_->Release();
  EXPECT_GT(f.sink->Wait().preemptions, 0);
  ExpectRight(f);
  const std::vector<int32_t> progress = f.sink->progress();
  EXPECT_FALSE(std::is_sorted(progress.begin(), progress.end())) << "it was not preempted there";
  older.sink->Wait();
}

TEST_F(PromptLogprobsTest, ManyAtOnceAndWithCandidates) {
  Start({.max_batched_tokens = 256});
  std::vector<FakeRequest> all;
  for (int i = 0; i < 5; i++) {
    FakeRequest f = MakeFakeRequest("r" + std::to_string(i), 50 + 90 * i, 30, i);
    f.request->output.top_prompt_logprobs = kTop;
    f.request->sampling.num_candidates = 1 + i % 3;
    f.request->stopping.ignore_eos = true;
    ASSERT_TRUE(engine_->Submit(f.request).ok());
    all.push_back(f);
  }
  for (FakeRequest& f : all) {
    EXPECT_EQ(f.sink->Wait().new_tokens, 30 * f.request->sampling.num_candidates);
    ExpectRight(f);
  }
}

TEST_F(PromptLogprobsTest, UnusableLogitsEndTheRequest) {
  for (int top : {0, 100}) {
    Start();
    model_->top_logits = top;
    model_->on_logits = [](int32_t, int32_t position, absl::Span<float> row) {
      if (position == 150) row[3] = std::nanf("");
    };
    FakeRequest f = Ask("bad", 200);
    EXPECT_EQ(f.sink->Wait().status, absl::InternalError("request bad: logit of token 3 is nan"));
    EXPECT_EQ(f.sink->prompt_logprobs().size(), 129u);  // of the steps before
    TearDown();
    engine_.reset();
  }
}

}  // namespace
}  // namespace tauserve
