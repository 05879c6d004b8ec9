// Thousands of requests from several threads, a part of them cancelled, aborted or late at any moment. Each must end
// exactly once, get the tokens that it would get alone, and leave nothing behind.
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "server/engine/engine.h"
#include "tests/server/engine/fake_model.h"

namespace tauserve {
namespace {

TEST(EngineStressTest, RandomRequestsFromManyThreads) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  FakeTokenizer tokenizer;
  Metrics metrics("fake");
  FakeModel model(40);
  EngineOptions options;
  options.max_batched_tokens = 100;
  options.max_running_requests = 8;
  options.max_waiting_requests = 50;
  Engine engine(options, &model, &tokenizer, &metrics);
  constexpr int kThreads = 4, kRequests = 500;
  std::atomic<int> finished{0}, cancelled{0}, refused{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; t++) {
    threads.emplace_back([&, t] {
      std::mt19937 random(seed + t);
      std::vector<FakeRequest> mine;
      auto settle = [&](FakeRequest& f) {
        const Completion c = f.sink->Wait();
        ASSERT_EQ(f.sink->ends(), 1);
        const std::vector<int32_t> expected = ExpectedTokens(*f.request);
        if (c.reason == FinishReason::kMaxNewTokens) {
          finished++;
        } else {
          cancelled++;
        }
        for (int k = 0; k < f.request->sampling.num_candidates; k++) {
          const std::vector<int32_t> got = f.sink->tokens(k);
          ASSERT_LE(got.size(), expected.size());
          ASSERT_EQ(got, std::vector(expected.begin(), expected.begin() + got.size()));
        }
        ASSERT_EQ(f.sink->finished() == f.request->sampling.num_candidates, c.status.ok());
        if (f.request->output.top_prompt_logprobs && f.sink->tokens().size() > 0) {
          ASSERT_EQ(f.sink->prompt_logprobs().size(), f.request->prompt.size());
        }
      };
      for (int i = 0; i < kRequests; i++) {
        const std::string id = std::to_string(t) + "-" + std::to_string(i);
        FakeRequest f = MakeFakeRequest(id, 1 + random() % 300, 1 + random() % 40, random() % 3);
        if (random() % 4 == 0) f.request->sampling.num_candidates = 2 + random() % 7;
        if (random() % 5 == 0) f.request->output.top_prompt_logprobs = 1;
        if (random() % 10 == 0) {
          f.request->deadline = absl::Now() + absl::Microseconds(random() % 2000);
        }
        const absl::Status s = engine.Submit(f.request);
        if (!s.ok()) {
          ASSERT_TRUE(s.code() == absl::StatusCode::kResourceExhausted ||
                      s.code() == absl::StatusCode::kDeadlineExceeded)
              << s;
          ASSERT_EQ(f.sink->ends(), 0);
          refused++;
        } else {
          mine.push_back(f);
          if (random() % 3 == 0) engine.Cancel(id);
          if (random() % 50 == 0) {
            const std::vector<std::string> ids = {id};
            engine.Abort(ids);
          }
        }
        if (random() % 100 == 0) engine.ClearPrefixCache();
        const EngineLoad load = engine.load();
        ASSERT_GE(load.pages_free, 0);
        ASSERT_LE(load.running_requests, 8);
        if (mine.size() > 10) {
          settle(mine.front());
          mine.erase(mine.begin());
        }
      }
      for (FakeRequest& f : mine) settle(f);
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(finished + cancelled + refused, kThreads * kRequests);
  EXPECT_GT(finished, 100);
  EXPECT_GT(cancelled, 100);
  EXPECT_EQ(engine.Drain(absl::Minutes(1)), 0);
  engine.Shutdown();
  const EngineLoad load = engine.load();
  EXPECT_EQ(load.pages_free, 40);
  EXPECT_EQ(load.running_requests + load.waiting_requests, 0);
}

}  // namespace
}  // namespace tauserve
