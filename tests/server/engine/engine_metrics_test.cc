// What the engine tells the metrics, read as a scrape reads it.
#include <gtest/gtest.h>
#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "tests/server/engine/engine_fixture.h"

namespace tauserve {
namespace {

// Counters' values and histograms' counts, summed over labels other than `phase` and `kind`.
std::map<std::string, double> Scrape(const Metrics& metrics) {
  std::map<std::string, double> values;
  for (const auto& source : metrics.collectables()) {
    for (const prometheus::MetricFamily& family : source.lock()->Collect()) {
      for (const prometheus::ClientMetric& metric : family.metric) {
        if (!family.name.starts_with("tauserve_")) continue;
        std::string name = family.name.substr(std::string("tauserve_").size());
        for (const auto& label : metric.label) {
          if (label.name == "phase" || label.name == "kind") name += "/" + label.value;
        }
        values[name] += family.type == prometheus::MetricType::Histogram
                            ? metric.histogram.sample_count
                            : metric.counter.value;
      }
    }
  }
  return values;
}

TEST_F(EngineTest, MetricsCountWhatHappened) {
  Start({.max_batched_tokens = 100});
  FakeRequest first = MakeFakeRequest("a", 250, 5), again = MakeFakeRequest("b", 250, 1),
              bypass = MakeFakeRequest("c", 50, 3);
  bypass.request->bypass_prefix_cache = true;
  for (FakeRequest* f : {&first, &again, &bypass}) {
    ASSERT_TRUE(engine_->Submit(f->request).ok());
    f->sink->Wait();
  }
  engine_->Shutdown();
  std::map<std::string, double> v = Scrape(metrics_);
  EXPECT_EQ(v["prompt_tokens_total"], 250 + 250 + 50);
  EXPECT_EQ(v["generation_tokens_total"], 5 + 1 + 3);
  EXPECT_EQ(v["prefix_cache_query_tokens_total"], 250 + 250);
  EXPECT_EQ(v["prefix_cache_hit_tokens_total"], 192);
  EXPECT_EQ(v["request_queue_seconds"], 3);
  EXPECT_EQ(v["request_prefill_seconds"], 3);
  EXPECT_EQ(v["time_to_first_token_seconds"], 3);
  EXPECT_EQ(v["request_decode_seconds"], 3);
  EXPECT_EQ(v["inter_token_latency_seconds"], 4 + 0 + 2);
  // Prompts in three, one and one chunk; then a step for each further token.
  EXPECT_EQ(v["engine_steps_total"], 3 + 4 + 1 + 1 + 2);
  EXPECT_EQ(v["step_duration_seconds/prefill"], 5);
  EXPECT_EQ(v["step_duration_seconds/decode"], 6);
  // The fake model considers as many keys as tokens: each is computed once, the last new one never.
  EXPECT_EQ(v["attention_keys_considered_total/prefill"] +
                v["attention_keys_considered_total/decode"] + v["attention_keys_considered_total"],
            250 + 4 + (250 - 192) + 50 + 2);
}

TEST_F(EngineTest, MetricsSayWhatTheEngineSpendsItsTimeOn) {
  const absl::Time begin = absl::Now();
  Start();
  // While nothing happens, too.
  const absl::Duration waited = TimeOf(EnginePhase::kWait);
  while (TimeOf(EnginePhase::kWait) <= waited) std::this_thread::yield();
  FakeRequest f = HoldWith("a", 50, 20);
  const absl::Duration idle = TimeOf(EnginePhase::kWait);
  while (TimeOf(EnginePhase::kModel) < absl::Milliseconds(20)) std::this_thread::yield();
  EXPECT_EQ(TimeOf(EnginePhase::kWait), idle);
  model_->Release();
  f.sink->Wait();
  engine_->Shutdown();
  absl::Duration sum;
  for (int p = 0; p < kEnginePhases; p++) {
    const absl::Duration time = TimeOf(static_cast<EnginePhase>(p));
    EXPECT_GT(time, absl::ZeroDuration()) << p;
    sum += time;
  }
  EXPECT_LE(sum, absl::Now() - begin);
}

TEST_F(EngineTest, ARequestThatNeverRanTouchesNoLatency) {
  Start({.max_running_requests = 1});
  FakeRequest running = HoldWith("a", 10, 2), queued = MakeFakeRequest("b", 10, 2);
  ASSERT_TRUE(engine_->Submit(queued.request).ok());
  engine_->Cancel("b");
  model_->Release();
  queued.sink->Wait();
  running.sink->Wait();
  engine_->Shutdown();
  std::map<std::string, double> v = Scrape(metrics_);
  EXPECT_EQ(v["prompt_tokens_total"], 10);
  EXPECT_EQ(v["request_queue_seconds"], 1);
  EXPECT_EQ(v["time_to_first_token_seconds"], 1);
  EXPECT_EQ(v["request_decode_seconds"], 1);
}

}  // namespace
}  // namespace tauserve
