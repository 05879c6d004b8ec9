// Stuck and busy: the judgement by itself, on an engine with a fake model, and on the real one over a backend that can be
// held in the middle of a step.
#include "server/engine/stall_watch.h"

#include <gmock/gmock.h>

#include <condition_variable>
#include <functional>
#include <mutex>
#include <utility>
#include <vector>

#include "server/model/transformer.h"
#include "tests/bench/forwarding_backend.h"
#include "tests/server/engine/engine_fixture.h"

namespace tauserve {
namespace {

using testing::ElementsAre;

constexpr absl::Duration kLimit = absl::Seconds(8);
constexpr absl::Duration kLook = absl::Milliseconds(500);

EnginePulse Busy(uint64_t beats) {
  EnginePulse pulse;
  pulse.idle = false;
  pulse.beats = beats;
  return pulse;
}

TEST(StallDetectorTest, StuckWithinTenSecondsAndNoLongerWhenItMoves) {
  StallDetector detector(kLimit);
  EXPECT_FALSE(detector.Look(Busy(1), kLook));
  absl::Duration quiet;
  while (!detector.Look(Busy(1), kLook)) {
    quiet += kLook;
    ASSERT_LE(quiet, absl::Seconds(10));
  }
  EXPECT_GE(quiet + kLook, kLimit);
  EXPECT_TRUE(detector.Look(Busy(1), kLook));
  EXPECT_FALSE(detector.Look(Busy(2), kLook));
  EXPECT_FALSE(detector.Look(Busy(2), kLimit - kLook));
  EXPECT_TRUE(detector.Look(Busy(2), kLook));
}

TEST(StallDetectorTest, AnIdleEngineIsNeverStuck) {
  StallDetector detector(kLimit);
  for (int i = 0; i < 10; i++) EXPECT_FALSE(detector.Look(EnginePulse(), kLimit));
  EXPECT_FALSE(detector.Look(Busy(0), kLook));  // it begins now
}

TEST(StallDetectorTest, AnHourOfOneStepThatGetsOnIsBusy) {
  StallDetector detector(kLimit);
  for (uint64_t beats = 1; beats <= 600; beats++) {
    EXPECT_FALSE(detector.Look(Busy(beats), absl::Seconds(6)));
  }
}

TEST(StallDetectorTest, ADeviceThatTellsNothingMayTakeAFewTimesItsLongestStep) {
  StallDetector detector(kLimit);
  EnginePulse pulse = Busy(1);
  pulse.longest_quiet_step = absl::Seconds(5);
  EXPECT_FALSE(detector.Look(pulse, kLook));
  EXPECT_FALSE(detector.Look(pulse, absl::Seconds(19)));
  EXPECT_TRUE(detector.Look(pulse, absl::Seconds(1)));
}

// What a watch says, for tests that wait for it.
class Said {
 public:
  void Add(bool stuck) {
    std::lock_guard<std::mutex> lock(mutex_);
    said_.push_back(stuck);
    changed_.notify_all();
  }
  std::vector<bool> WaitFor(size_t n) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return said_.size() >= n; });
    return said_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<bool> said_;
};

TEST_F(EngineTest, AStuckModelIsFoundAndForgivenWhenItMoves) {
  Start();
  Said said;
  StallWatch watch(engine_.get(), absl::Milliseconds(50), [&said](bool stuck) { said.Add(stuck); });
  FakeRequest f = HoldWith("a", 10, 5);
  EXPECT_THAT(said.WaitFor(1), ElementsAre(true));
  model_->Release();
  EXPECT_THAT(said.WaitFor(2), ElementsAre(true, false));
  EXPECT_TRUE(f.sink->Wait().status.ok());
}

// Calls `at_attention(layer)` before each layer's attention, while a step runs.
class ObservedBackend : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;
  void Attention(int layer, const AttentionSpec& spec, Matrix q, Matrix query_scale,
                 Matrix out) override {
    if (at_attention) at_attention(layer);
    ForwardingBackend::Attention(layer, spec, q, query_scale, out);
  }
  std::function<void(int)> at_attention;
};

class RealEngineTest : public testing::Test {
 protected:
  void SetUp() override {
    BackendOptions options;
    options.device = "cpu";
    options.threads = 2;
    auto cpu = CreateBackend(options);
    ASSERT_TRUE(cpu.ok()) << cpu.status();
    backend_ = std::make_unique<ObservedBackend>(*std::move(cpu));
    ModelOptions model_options;
    model_options.kv_cache_bytes = 16 << 20;
    auto model = LoadModel("models/recall-9m", backend_.get(), model_options);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    engine_ = std::make_unique<Engine>(EngineOptions(), model_.get(), &tokenizer_, &metrics_);
  }
  FakeTokenizer tokenizer_;
  Metrics metrics_{"recall-9m"};
  std::unique_ptr<ObservedBackend> backend_;
  std::unique_ptr<LanguageModel> model_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(RealEngineTest, ALongStepOfManyOperationsIsBusy) {
  StallDetector detector(kLimit);
  int looks = 0, stuck = 0;
  // As if an operation took most of the limit, and the step so many times the limit.
  backend_->at_attention = [&](int) {
    looks++;
    stuck += detector.Look(engine_->pulse(), kLimit - kLook);
  };
  FakeRequest f = MakeFakeRequest("long", 500, 2);
  ASSERT_TRUE(engine_->Submit(f.request).ok());
  EXPECT_TRUE(f.sink->Wait().status.ok());
  EXPECT_EQ(looks, 2 * model_->info().num_layers);
  EXPECT_EQ(stuck, 0);
}

TEST_F(RealEngineTest, AnOperationThatHangsIsStuck) {
  Said said;
  std::mutex mutex;
  std::condition_variable changed;
  bool hang = true;
  backend_->at_attention = [&](int layer) {
    if (layer != 1) return;
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [&] { return !hang; });
  };
  StallWatch watch(engine_.get(), absl::Milliseconds(100),
                   [&said](bool stuck) { said.Add(stuck); });
  FakeRequest f = MakeFakeRequest("a", 100, 3);
  ASSERT_TRUE(engine_->Submit(f.request).ok());
  EXPECT_TRUE(said.WaitFor(1)[0]);
  {
    std::lock_guard<std::mutex> lock(mutex);
    hang = false;
    changed.notify_all();
  }
  EXPECT_FALSE(said.WaitFor(2)[1]);
  EXPECT_TRUE(f.sink->Wait().status.ok());
  EXPECT_EQ(f.sink->tokens().size(), 3);
}

}  // namespace
}  // namespace tauserve
