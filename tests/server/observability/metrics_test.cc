#include "server/observability/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>
#include <unistd.h>

#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"

namespace tauserve {
namespace {

using prometheus::MetricType;
using Labels = std::map<std::string, std::string>;

std::vector<prometheus::MetricFamily> Collect(const Metrics& metrics) {
  std::vector<prometheus::MetricFamily> families;
  for (const auto& source : metrics.collectables()) {
    for (prometheus::MetricFamily& family : source.lock()->Collect()) {
      families.push_back(std::move(family));
    }
  }
  return families;
}

// The metric of a family that has all of `labels`.
std::optional<prometheus::ClientMetric> Find(const Metrics& metrics, const std::string& name,
                                             const Labels& labels = {}) {
  for (const prometheus::MetricFamily& family : Collect(metrics)) {
    if (family.name != "tauserve_" + name) continue;
    for (const prometheus::ClientMetric& metric : family.metric) {
      Labels have;
      for (const auto& label : metric.label) have[label.name] = label.value;
      bool all = true;
      for (const auto& [key, value] : labels) all &= have.contains(key) && have[key] == value;
      if (all) return metric;
    }
  }
  return std::nullopt;
}

double CounterValue(const Metrics& metrics, const std::string& name, const Labels& labels = {}) {
  const auto metric = Find(metrics, name, labels);
  return metric ? metric->counter.value : -1;
}

bool IsOfProcess(const std::string& name) { return name.starts_with("process_"); }

TEST(MetricsTest, EveryMetricHasThePrefixTheModelsNameAndHelp) {
  Metrics metrics("m");
  metrics.SetBuildInfo("1.2.3", "abc", "cpu");
  metrics.SetModelInfo("LlamaForCausalLM", 9440320, 1.5f, 2.0f, 131072);
  metrics.SetStartupSeconds("model", absl::Milliseconds(250));
  metrics.SetLoadSource([] { return LoadSnapshot(); });
  int seen = 0;
  for (const prometheus::MetricFamily& family : Collect(metrics)) {
    if (IsOfProcess(family.name)) continue;  // named as everywhere
    EXPECT_THAT(family.name, testing::StartsWith("tauserve_"));
    EXPECT_FALSE(family.help.empty()) << family.name;
    EXPECT_EQ(family.type == MetricType::Counter, family.name.ends_with("_total")) << family.name;
    for (const prometheus::ClientMetric& metric : family.metric) {
      seen++;
      bool labelled = false;
      for (const auto& label : metric.label) {
        labelled |= label.name == "model_name" && label.value == "m";
      }
      EXPECT_TRUE(labelled) << family.name;
    }
  }
  EXPECT_GT(seen, 50);
  EXPECT_EQ(Find(metrics, "build_info", {{"commit", "abc"}, {"device", "cpu"}})->gauge.value, 1);
  EXPECT_EQ(Find(metrics, "model_info", {{"alpha_min", "1.5"}, {"alpha_max", "2"}})->gauge.value,
            1);
  EXPECT_EQ(Find(metrics, "startup_seconds", {{"phase", "model"}})->gauge.value, 0.25);
}

TEST(MetricsTest, KnownOutcomesStartAtZero) {
  Metrics metrics("m");
  EXPECT_EQ(CounterValue(metrics, "requests_total", {{"code", "OK"}, {"finish_reason", "aborted"}}),
            0);
  EXPECT_EQ(CounterValue(metrics, "requests_total", {{"code", "CANCELLED"}, {"finish_reason", ""}}),
            0);
  EXPECT_EQ(CounterValue(metrics, "admission_rejections_total", {{"reason", "not_found"}}), 0);
  EXPECT_EQ(CounterValue(metrics, "attention_wide_rows_total", {{"phase", "decode"}}), 0);
}

TEST(MetricsTest, GaugesAreReadAtTheScrape) {
  Metrics metrics("m");
  LoadSnapshot load;
  load.pages_total = 200;
  load.pages_free = 200;
  metrics.SetLoadSource([&load] { return load; });
  EXPECT_EQ(Find(metrics, "kv_cache_usage_ratio")->gauge.value, 0);
  EXPECT_EQ(Find(metrics, "engine_last_step_timestamp_seconds")->gauge.value, 0);
  EXPECT_EQ(Find(metrics, "draining")->gauge.value, 0);
  load = {3, 4, 5000, 200, 150, absl::UnixEpoch() + absl::Seconds(1000), true};
  load.engine_time[static_cast<int>(EnginePhase::kModel)] = absl::Milliseconds(1500);
  EXPECT_EQ(Find(metrics, "draining")->gauge.value, 1);
  EXPECT_EQ(CounterValue(metrics, "engine_seconds_total", {{"phase", "model"}}), 1.5);
  EXPECT_EQ(CounterValue(metrics, "engine_seconds_total", {{"phase", "wait"}}), 0);
  EXPECT_EQ(Find(metrics, "requests_running")->gauge.value, 3);
  EXPECT_EQ(Find(metrics, "requests_waiting")->gauge.value, 4);
  EXPECT_EQ(Find(metrics, "waiting_prompt_tokens")->gauge.value, 5000);
  EXPECT_EQ(Find(metrics, "kv_pages_free")->gauge.value, 150);
  EXPECT_EQ(Find(metrics, "kv_cache_usage_ratio")->gauge.value, 0.25);
  EXPECT_EQ(
      Find(metrics, "kv_cache_info", {{"page_tokens", "64"}, {"num_pages", "200"}})->gauge.value,
      1);
  EXPECT_EQ(Find(metrics, "engine_last_step_timestamp_seconds")->gauge.value, 1000);
  metrics.SetLoadSource(nullptr);
  EXPECT_FALSE(Find(metrics, "requests_running"));
}

TEST(MetricsTest, StepsAreCountedByKind) {
  Metrics metrics("m");
  metrics.StepDone({absl::Milliseconds(1), 100, 0});
  metrics.StepDone({absl::Milliseconds(1), 0, 3});
  metrics.StepDone({absl::Milliseconds(2), 100, 3});
  metrics.StepDone({absl::Milliseconds(4), 1, 1});
  EXPECT_EQ(CounterValue(metrics, "engine_steps_total"), 4);
  EXPECT_EQ(CounterValue(metrics, "prefill_tokens_total"), 201);
  auto count = [&](const char* kind) {
    return Find(metrics, "step_duration_seconds", {{"kind", kind}})->histogram.sample_count;
  };
  EXPECT_EQ(count("prefill"), 1);
  EXPECT_EQ(count("decode"), 1);
  EXPECT_EQ(count("mixed"), 2);
}

TEST(MetricsTest, RequestsAreCountedByCodeAndReason) {
  Metrics metrics("m");
  metrics.RequestEnded("OK", "eos_token", absl::Seconds(2));
  metrics.RequestEnded("OK", "eos_token", absl::Seconds(1));
  metrics.RequestEnded("CANCELLED", "", absl::Seconds(1));
  metrics.AdmissionRejected("unavailable");
  metrics.CallUnauthorized("UNAUTHENTICATED");
  EXPECT_EQ(
      CounterValue(metrics, "requests_total", {{"code", "OK"}, {"finish_reason", "eos_token"}}), 2);
  EXPECT_EQ(CounterValue(metrics, "requests_total", {{"code", "CANCELLED"}}), 1);
  EXPECT_EQ(CounterValue(metrics, "admission_rejections_total", {{"reason", "unavailable"}}), 1);
  EXPECT_EQ(CounterValue(metrics, "unauthorized_calls_total", {{"code", "UNAUTHENTICATED"}}), 1);
  EXPECT_EQ(Find(metrics, "request_duration_seconds")->histogram.sample_count, 3);
  EXPECT_EQ(Find(metrics, "request_duration_seconds")->histogram.sample_sum, 4);
}

AttentionStats SomeStats() {
  AttentionStats stats;
  stats.rows = 6;
  stats.keys_considered = 1000;
  stats.keys_scored = 400;
  stats.support = 90;
  stats.entmax_support = 60;  // the rest is of softmax heads
  stats.blocks_considered = 20;
  stats.blocks_scored = 8;
  stats.blocks_attended = 5;
  stats.pages_considered = 12;
  stats.pages_read = 7;
  stats.kv_bytes_read = 4096;
  stats.tau_iterations = 9;
  stats.wide_rows = 2;
  stats.unconverged_rows = 1;
  stats.max_tau_residual = 2e-6;
  stats.support_histogram[0] = 1;                                    // 1 key
  stats.support_histogram[3] = 4;                                    // 5 to 8 keys
  stats.support_histogram[AttentionStats::kSupportBuckets - 1] = 1;  // very many
  stats.iteration_histogram[1] = 4;
  stats.iteration_histogram[2] = 2;
  return stats;
}

TEST(MetricsTest, AttentionGoesToItsPhase) {
  Metrics metrics("m");
  metrics.AttentionDone(Phase::kPrefill, SomeStats());
  EXPECT_EQ(CounterValue(metrics, "attention_prefill_blocks_considered_total"), 20);
  EXPECT_EQ(CounterValue(metrics, "attention_prefill_blocks_scored_total"), 8);
  EXPECT_EQ(CounterValue(metrics, "attention_prefill_blocks_computed_total"), 5);
  EXPECT_EQ(CounterValue(metrics, "attention_kv_pages_considered_total"), 0);
  EXPECT_EQ(CounterValue(metrics, "attention_decode_blocks_considered_total"), 0);
  metrics.AttentionDone(Phase::kDecode, SomeStats());
  EXPECT_EQ(CounterValue(metrics, "attention_prefill_blocks_considered_total"), 20);
  EXPECT_EQ(CounterValue(metrics, "attention_decode_blocks_considered_total"), 20);
  EXPECT_EQ(CounterValue(metrics, "attention_decode_blocks_scored_total"), 8);
  EXPECT_EQ(CounterValue(metrics, "attention_decode_blocks_computed_total"), 5);
  EXPECT_EQ(CounterValue(metrics, "attention_kv_pages_considered_total"), 12);
  EXPECT_EQ(CounterValue(metrics, "attention_kv_pages_read_total"), 7);
  for (const char* phase : {"prefill", "decode"}) {
    const Labels labels = {{"phase", phase}};
    EXPECT_EQ(CounterValue(metrics, "attention_keys_considered_total", labels), 1000);
    EXPECT_EQ(CounterValue(metrics, "attention_keys_scored_total", labels), 400);
    EXPECT_EQ(CounterValue(metrics, "attention_keys_support_total", labels), 90);
    EXPECT_EQ(CounterValue(metrics, "attention_kv_read_bytes_total", labels), 4096);
    EXPECT_EQ(CounterValue(metrics, "attention_wide_rows_total", labels), 2);
    EXPECT_EQ(CounterValue(metrics, "attention_tau_unconverged_rows_total", labels), 1);
  }
}

TEST(MetricsTest, BucketsOfSupportAndIterations) {
  Metrics metrics("m");
  metrics.AttentionDone(Phase::kDecode, SomeStats());
  const auto support = Find(metrics, "attention_support_tokens", {{"phase", "decode"}})->histogram;
  EXPECT_EQ(support.sample_count, 6);
  EXPECT_EQ(support.sample_sum, 60);  // entmax rows alone, as their count
  ASSERT_EQ(support.bucket.size(), AttentionStats::kSupportBuckets);
  EXPECT_EQ(support.bucket[0].upper_bound, 1);
  EXPECT_EQ(support.bucket[0].cumulative_count, 1);
  EXPECT_EQ(support.bucket[2].upper_bound, 4);
  EXPECT_EQ(support.bucket[2].cumulative_count, 1);
  EXPECT_EQ(support.bucket[3].upper_bound, 8);
  EXPECT_EQ(support.bucket[3].cumulative_count, 5);
  EXPECT_EQ(support.bucket[AttentionStats::kSupportBuckets - 2].cumulative_count, 5);
  EXPECT_EQ(support.bucket.back().cumulative_count, 6);

  const auto steps = Find(metrics, "attention_tau_iterations", {{"phase", "decode"}})->histogram;
  EXPECT_EQ(steps.sample_sum, 9);
  EXPECT_EQ(steps.bucket[1].upper_bound, 1);
  EXPECT_EQ(steps.bucket[1].cumulative_count, 4);
  EXPECT_EQ(steps.bucket[2].cumulative_count, 6);
  const auto residual = Find(metrics, "attention_tau_residual", {{"phase", "decode"}})->histogram;
  EXPECT_EQ(residual.sample_count, 1);
}

TEST(MetricsTest, SoftmaxStepsHaveNoThreshold) {
  Metrics metrics("m");
  AttentionStats softmax;
  softmax.keys_considered = softmax.keys_scored = softmax.support = 50;
  metrics.AttentionDone(Phase::kDecode, softmax);
  const Labels decode = {{"phase", "decode"}};
  EXPECT_EQ(CounterValue(metrics, "attention_keys_support_total", decode), 50);
  EXPECT_EQ(Find(metrics, "attention_support_tokens", decode)->histogram.sample_count, 0);
  EXPECT_EQ(Find(metrics, "attention_tau_residual", decode)->histogram.sample_count, 0);
}

TEST(MetricsTest, StuckFollowsWhoWatches) {
  Metrics metrics("m");
  EXPECT_EQ(Find(metrics, "engine_stuck")->gauge.value, 0);
  metrics.EngineStuck(true);
  EXPECT_EQ(Find(metrics, "engine_stuck")->gauge.value, 1);
  metrics.EngineStuck(false);
  EXPECT_EQ(Find(metrics, "engine_stuck")->gauge.value, 0);
}

// Of the families that every process has.
std::map<std::string, double> OfProcess(const Metrics& metrics) {
  std::map<std::string, double> values;
  for (const prometheus::MetricFamily& family : Collect(metrics)) {
    if (!IsOfProcess(family.name)) continue;
    EXPECT_EQ(family.type == MetricType::Counter, family.name.ends_with("_total")) << family.name;
    EXPECT_FALSE(family.help.empty()) << family.name;
    EXPECT_EQ(family.metric.size(), 1) << family.name;
    const prometheus::ClientMetric& metric = family.metric.front();
    EXPECT_TRUE(metric.label.empty()) << family.name;
    values[family.name] =
        family.type == MetricType::Counter ? metric.counter.value : metric.gauge.value;
  }
  return values;
}

TEST(MetricsTest, TheProcessTellsOfItself) {
  Metrics metrics("m");
  const std::map<std::string, double> before = OfProcess(metrics);
  ASSERT_EQ(before.size(), 5);
  const double now = absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch());
  EXPECT_LE(before.at("process_start_time_seconds"), now + 1);  // the machine's start is in seconds
  EXPECT_GT(before.at("process_start_time_seconds"), now - 3600);
  EXPECT_GT(before.at("process_max_fds"), before.at("process_open_fds"));
  EXPECT_GE(before.at("process_open_fds"), 3);

  constexpr size_t kBytes = 64 << 20;
  const std::vector<char> memory(kBytes, 1);
  const int copies[] = {dup(STDERR_FILENO), dup(STDERR_FILENO)};
  std::map<std::string, double> after;
  const absl::Time end = absl::Now() + absl::Seconds(60);
  do {  // until a tick of this process' time has been counted
    after = OfProcess(metrics);
  } while (after["process_cpu_seconds_total"] == before.at("process_cpu_seconds_total") &&
           absl::Now() < end);
  for (int copy : copies) close(copy);
  EXPECT_GT(after["process_cpu_seconds_total"], before.at("process_cpu_seconds_total"));
  EXPECT_EQ(after["process_start_time_seconds"], before.at("process_start_time_seconds"));
  EXPECT_EQ(after["process_open_fds"], before.at("process_open_fds") + 2);
  EXPECT_GE(after["process_resident_memory_bytes"],
            before.at("process_resident_memory_bytes") + kBytes * 9 / 10);
}

TEST(MetricsTest, ThreadsCountAndScrapeAtOnce) {
  Metrics metrics("m");
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++) {
    threads.emplace_back([&metrics, t] {
      for (int i = 0; i < 200; i++) {
        metrics.RequestEnded(i % 2 ? "OK" : "CANCELLED", i % 2 ? "eos_token" : "",
                             absl::Seconds(1));
        metrics.SetLoadSource([t] { return LoadSnapshot{t}; });
      }
    });
  }
  for (int i = 0; i < 50; i++) Collect(metrics);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Find(metrics, "request_duration_seconds")->histogram.sample_count, 800);
  EXPECT_EQ(CounterValue(metrics, "requests_total", {{"code", "CANCELLED"}}), 400);
}

}  // namespace
}  // namespace tauserve
