#include "server/engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "tests/server/engine/fake_model.h"

namespace tauserve {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class EngineTest : public testing::Test {
 protected:
  void Start(EngineOptions options = {}, int32_t pages = 64) {
    model_ = std::make_unique<FakeModel>(pages);
    engine_ = std::make_unique<Engine>(options, model_.get(), &tokenizer_, &metrics_);
  }
  void TearDown() override {
    if (!engine_) return;
    engine_->Shutdown();
    const EngineLoad load = engine_->load();
    EXPECT_EQ(load.pages_free, load.pages_total);
    EXPECT_EQ(load.running_requests + load.waiting_requests, 0);
    EXPECT_EQ(load.waiting_prompt_tokens, 0);
  }
  // Submits a request that keeps the engine inside Run until Release.
  FakeRequest HoldWith(const std::string& id, int prompt, int max_new) {
    model_->Hold();
    FakeRequest f = MakeFakeRequest(id, prompt, max_new);
    EXPECT_TRUE(engine_->Submit(f.request).ok());
    model_->WaitUntilHeld();
    return f;
  }
  FakeTokenizer tokenizer_;
  Metrics metrics_{"fake"};
  std::unique_ptr<FakeModel> model_;
  std::unique_ptr<Engine> engine_;
};

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

TEST_F(EngineTest, CancelWhileRunningFreesEverything) {
  Start();
  FakeRequest f = HoldWith("a", 100, 1000);
  engine_->Cancel("a");
  engine_->Cancel("unknown");
  model_->Release();
  EXPECT_EQ(f.sink->Wait().status.code(), absl::StatusCode::kCancelled);
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
  EXPECT_EQ(f.sink->Wait().stop_token, kFakeEos);
  EXPECT_EQ(f.sink->Wait().new_tokens, 6);
}

TEST_F(SpellingTest, StopStringAcrossTokens) {
  Spell("one, two, three");
  FakeRequest f = Ask([](Request& r) { r.stopping.stop_strings = {", tw"}; });
  EXPECT_EQ(f.sink->text(), "one");
  EXPECT_EQ(f.sink->Wait().reason, FinishReason::kStopString);
  EXPECT_EQ(f.sink->Wait().stop_string, ", tw");
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
}

TEST_F(SpellingTest, BrokenCharactersAreReplaced) {
  Spell("a\xc3");
  FakeRequest f = Ask();
  EXPECT_EQ(f.sink->text(), "a\xef\xbf\xbd");
}

}  // namespace
}  // namespace tauserve
