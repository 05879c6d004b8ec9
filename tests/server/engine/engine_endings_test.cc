// Every way that a request can end before it is done.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "tests/server/engine/engine_fixture.h"

namespace tauserve {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST_F(EngineTest, CancelWhileRunningFreesEverything) {
  Start();
  FakeRequest f = HoldWith("a", 100, 1000);
  engine_->Cancel("a");
  engine_->Cancel("unknown");
  model_->Release();
  EXPECT_EQ(f.sink->Wait().status.code(), absl::StatusCode::kCancelled);
}

TEST_F(EngineTest, AFailureOfTheDeviceEndsAllRequests) {
  std::promise<absl::Status> told;
  EngineOptions options;
  options.max_running_requests = 1;
  options.on_failure = [&](const absl::Status& failure) { told.set_value(failure); };
  Start(options);
  FakeRequest running = HoldWith("a", 10, 5), queued = MakeFakeRequest("b", 10, 5);
  ASSERT_TRUE(engine_->Submit(queued.request).ok());
  model_->FailWith(absl::InternalError("cuda: an illegal memory access"));
  model_->Release();
  for (const FakeRequest& f : {running, queued}) {
    const Completion c = f.sink->Wait();
    EXPECT_EQ(c.status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(c.status.message()), HasSubstr("request " + f.request->id));
    EXPECT_THAT(std::string(c.status.message()), HasSubstr("illegal memory access"));
    EXPECT_EQ(f.sink->ends(), 1);
  }
  EXPECT_EQ(told.get_future().get().message(), "cuda: an illegal memory access");
  const absl::Status refused = engine_->Submit(MakeFakeRequest("c", 10, 5).request);
  EXPECT_EQ(refused.code(), absl::StatusCode::kInternal);
}

TEST_F(EngineTest, CancelInTheQueue) {
  Start({.max_running_requests = 1});
  FakeRequest running = HoldWith("a", 10, 5), queued = MakeFakeRequest("b", 10, 5);
  ASSERT_TRUE(engine_->Submit(queued.request).ok());
  EXPECT_EQ(engine_->load().waiting_requests, 1);
  EXPECT_EQ(engine_->load().waiting_prompt_tokens, 10);
  engine_->Cancel("b");
  model_->Release();
  const Completion c = queued.sink->Wait();
  EXPECT_EQ(c.status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(c.new_tokens, 0);
  EXPECT_EQ(running.sink->Wait().reason, FinishReason::kMaxNewTokens);
}

TEST_F(EngineTest, CancelWhileDecoding) {
  Start({}, 1000);
  FakeRequest f = MakeFakeRequest("a", 10, 50000);
  ASSERT_TRUE(engine_->Submit(f.request).ok());
  f.sink->WaitForTokens(3);
  engine_->Cancel("a");
  const Completion c = f.sink->Wait();
  EXPECT_EQ(c.status.code(), absl::StatusCode::kCancelled);
  EXPECT_GE(c.new_tokens, 3);
}

TEST_F(EngineTest, DeadlineInTheQueueAndWhileRunning) {
  Start({.max_running_requests = 1}, 1000);
  FakeRequest running = HoldWith("a", 10, 50000), queued = MakeFakeRequest("b", 10, 5);
  queued.request->deadline = absl::Now() - absl::Seconds(1);
  ASSERT_TRUE(engine_->Submit(queued.request).ok());
  model_->Release();
  EXPECT_EQ(queued.sink->Wait().status.code(), absl::StatusCode::kDeadlineExceeded);
  engine_->Cancel("a");
  running.sink->Wait();
  FakeRequest late = MakeFakeRequest("c", 10, 50000);
  late.request->deadline = absl::Now() + absl::Milliseconds(20);
  ASSERT_TRUE(engine_->Submit(late.request).ok());
  EXPECT_EQ(late.sink->Wait().status.code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(EngineTest, TimeLimitEndsPolitely) {
  Start({}, 1000);
  FakeRequest f = MakeFakeRequest("a", 10, 50000);
  f.request->stopping.time_limit = absl::Milliseconds(20);
  ASSERT_TRUE(engine_->Submit(f.request).ok());
  const Completion c = f.sink->Wait();
  EXPECT_TRUE(c.status.ok());
  EXPECT_EQ(c.reason, FinishReason::kTimeLimit);
  EXPECT_EQ(static_cast<size_t>(c.new_tokens), f.sink->tokens().size());
}

TEST_F(EngineTest, AbortNamedAndAll) {
  Start({.max_running_requests = 1}, 2000);
  FakeRequest a = HoldWith("a", 10, 50000), b = MakeFakeRequest("b", 10, 100),
              c = MakeFakeRequest("c", 10, 100);
  ASSERT_TRUE(engine_->Submit(b.request).ok());
  ASSERT_TRUE(engine_->Submit(c.request).ok());
  const std::vector<std::string> some = {"b", "nobody"};
  EXPECT_THAT(engine_->Abort(some), ElementsAre("b"));
  model_->Release();
  EXPECT_EQ(b.sink->Wait().reason, FinishReason::kAborted);
  model_->Hold();
  model_->WaitUntilHeld();
  EXPECT_THAT(engine_->Abort({}), ElementsAre("a", "c"));
  model_->Release();
  EXPECT_EQ(a.sink->Wait().reason, FinishReason::kAborted);
  EXPECT_EQ(c.sink->Wait().reason, FinishReason::kAborted);
}

TEST_F(EngineTest, DrainRefusesWaitsAndAborts) {
  Start({.max_running_requests = 1}, 1000);
  FakeRequest running = HoldWith("a", 10, 50000), queued = MakeFakeRequest("b", 10, 5);
  ASSERT_TRUE(engine_->Submit(queued.request).ok());
  int32_t aborted = 0;
  std::thread drain([&] { aborted = engine_->Drain(absl::Milliseconds(10)); });
  while (!engine_->load().draining) std::this_thread::yield();
  EXPECT_EQ(engine_->Submit(MakeFakeRequest("c", 1, 1).request).code(),
            absl::StatusCode::kUnavailable);
  model_->Release();
  drain.join();
  EXPECT_EQ(aborted, 2);
  EXPECT_EQ(running.sink->Wait().reason, FinishReason::kAborted);
  EXPECT_EQ(queued.sink->Wait().status.code(), absl::StatusCode::kUnavailable);
}

TEST_F(EngineTest, DrainLetsRequestsFinish) {
  Start();
  FakeRequest f = MakeFakeRequest("a", 100, 20);
  ASSERT_TRUE(engine_->Submit(f.request).ok());
  EXPECT_EQ(engine_->Drain(absl::Minutes(1)), 0);
  EXPECT_EQ(f.sink->Wait().reason, FinishReason::kMaxNewTokens);
}

TEST_F(EngineTest, ShutdownEndsEverythingOnce) {
  Start({.max_running_requests = 1});
  FakeRequest a = HoldWith("a", 10, 100), b = MakeFakeRequest("b", 10, 100);
  ASSERT_TRUE(engine_->Submit(b.request).ok());
  model_->Release();
  engine_->Shutdown();
  EXPECT_EQ(a.sink->ends(), 1);
  EXPECT_EQ(b.sink->ends(), 1);
  engine_->Shutdown();
  EXPECT_EQ(engine_->ClearPrefixCache(), 0);
}

TEST_F(EngineTest, CancelBetweenTwoChunksOfAPrompt) {
  Start({.max_batched_tokens = 64});
  FakeRequest f = HoldWith("a", 1000, 5);
  engine_->Cancel("a");
  model_->Release();
  const Completion c = f.sink->Wait();
  EXPECT_EQ(c.status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(c.new_tokens, 0);
  EXPECT_THAT(f.sink->progress(), ElementsAre(64));  // the chunk that ran; none after it
}

// The request ends by itself in the step in which it is cancelled, and its id is used again at once.
TEST_F(EngineTest, ALateCancelDoesNotHitTheNextRequestOfThatId) {
  Start();
  FakeRequest again = MakeFakeRequest("a", 10, 5);
  absl::Status submitted = absl::UnknownError("not called");
  model_->Hold();
  FakeRequest first = MakeFakeRequest("a", 10, 1);
  first.sink->on_end = [&] { submitted = engine_->Submit(again.request); };
  ASSERT_TRUE(engine_->Submit(first.request).ok());
  model_->WaitUntilHeld();
  engine_->Cancel("a");
  const std::vector<std::string> ids = {"a"};
  EXPECT_EQ(engine_->Abort(ids), ids);
  model_->Release();
  EXPECT_EQ(first.sink->Wait().reason, FinishReason::kMaxNewTokens);
  ASSERT_TRUE(submitted.ok()) << submitted;
  EXPECT_EQ(again.sink->Wait().reason, FinishReason::kMaxNewTokens);
}

// A deadline that lies in the future when the request is queued behind one that runs on.
TEST_F(EngineTest, DeadlinePassesInTheQueue) {
  Start({.max_running_requests = 1}, 10000);
  FakeRequest running = MakeFakeRequest("a", 10, 500000), queued = MakeFakeRequest("b", 10, 5),
              limited = MakeFakeRequest("c", 10, 5);
  ASSERT_TRUE(engine_->Submit(running.request).ok());
  queued.request->deadline = absl::Now() + absl::Milliseconds(20);
  limited.request->stopping.time_limit = absl::Milliseconds(20);
  ASSERT_TRUE(engine_->Submit(queued.request).ok());
  ASSERT_TRUE(engine_->Submit(limited.request).ok());
  const Completion late = queued.sink->Wait();
  EXPECT_EQ(late.status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_GE(late.total, absl::Milliseconds(19));
  EXPECT_EQ(late.prefill, absl::ZeroDuration());
  EXPECT_EQ(limited.sink->Wait().reason, FinishReason::kTimeLimit);
  EXPECT_TRUE(limited.sink->tokens().empty());
  EXPECT_EQ(running.sink->ends(), 0);
}

// Drain comes while the sink is being told: the request is not in flight any more, but has not ended for its client.
TEST_F(EngineTest, DrainReturnsAfterTheLastSinkWasTold) {
  Start();
  std::atomic<bool> told{false};
  bool told_before_return = false;
  std::thread drain;
  FakeRequest f = MakeFakeRequest("a", 10, 1);
  f.sink->on_end = [&] {
    drain = std::thread([&] {
      EXPECT_EQ(engine_->Drain(absl::Minutes(1)), 0);
      told_before_return = told;
    });
    while (!engine_->load().draining) std::this_thread::yield();
    for (int i = 0; i < 1000; i++)
      std::this_thread::yield();  // time for a Drain that does not wait
    told = true;
  };
  ASSERT_TRUE(engine_->Submit(f.request).ok());
  f.sink->Wait();
  drain.join();
  EXPECT_TRUE(told_before_return);
}

TEST_F(EngineTest, SeveralThreadsShutDown) {
  Start();
  FakeRequest f = HoldWith("a", 10, 100);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; i++) threads.emplace_back([&] { engine_->Shutdown(); });
  model_->Release();
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(f.sink->ends(), 1);
}

}  // namespace
}  // namespace tauserve
