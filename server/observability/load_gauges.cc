#include "server/observability/load_gauges.h"

#include <prometheus/metric_family.h>

#include <iterator>
#include <utility>

#include "kernels/attention.h"

namespace tauserve {
namespace {

constexpr const char* kPhaseNames[] = {"wait",       "schedule", "model",  "sample",
                                       "detokenize", "deliver",  "account"};
static_assert(std::size(kPhaseNames) == kEnginePhases);

}  // namespace

void Metrics::LoadGauges::set_source(std::function<LoadSnapshot()> source) {
  std::lock_guard<std::mutex> lock(mutex_);
  source_ = std::move(source);
}

std::vector<prometheus::MetricFamily> Metrics::LoadGauges::Collect() const {
  std::vector<prometheus::MetricFamily> families;
  std::lock_guard<std::mutex> lock(mutex_);
  if (!source_) return families;
  const LoadSnapshot load = source_();
  auto add = [&](const char* name, const char* help, double value,
                 std::vector<prometheus::ClientMetric::Label> labels = {}) {
    prometheus::MetricFamily family;
    family.name = name;
    family.help = help;
    family.type = prometheus::MetricType::Gauge;
    prometheus::ClientMetric metric;
    labels.push_back({"model_name", model_name_});
    metric.label = std::move(labels);
    metric.gauge.value = value;
    family.metric.push_back(std::move(metric));
    families.push_back(std::move(family));
  };
  add("tauserve_requests_running", "Requests in the batch.", load.requests_running);
  add("tauserve_requests_waiting", "Requests in the queue.", load.requests_waiting);
  add("tauserve_waiting_prompt_tokens", "Prompt tokens of the requests in the queue.",
      load.waiting_prompt_tokens);
  add("tauserve_kv_cache_usage_ratio", "Share of the KV cache's pages that requests hold.",
      load.pages_total == 0 ? 0.0 : 1 - static_cast<double>(load.pages_free) / load.pages_total);
  add("tauserve_kv_pages_free",
      "Pages that no request holds, those kept for the prefix cache included.", load.pages_free);
  add("tauserve_kv_cache_info", "The KV cache's shape; always 1.", 1,
      {{"page_tokens", std::to_string(kPageTokens)},
       {"num_pages", std::to_string(load.pages_total)}});
  add("tauserve_engine_last_step_timestamp_seconds",
      "When the last engine step ended; 0 before the first.",
      load.last_step == absl::InfinitePast()
          ? 0.0
          : absl::ToDoubleSeconds(load.last_step - absl::UnixEpoch()));
  add("tauserve_draining", "1 while new requests are refused, for good.", load.draining);
  families.push_back(EngineSeconds(load));
  return families;
}

prometheus::MetricFamily Metrics::LoadGauges::EngineSeconds(const LoadSnapshot& load) const {
  prometheus::MetricFamily family;
  family.name = "tauserve_engine_seconds_total";
  family.help =
      "What the engine's thread spends its time on; their sum is the time since the start.";
  family.type = prometheus::MetricType::Counter;
  for (int p = 0; p < kEnginePhases; p++) {
    prometheus::ClientMetric metric;
    metric.label = {{"phase", kPhaseNames[p]}, {"model_name", model_name_}};
    metric.counter.value = absl::ToDoubleSeconds(load.engine_time[p]);
    family.metric.push_back(std::move(metric));
  }
  return family;
}

}  // namespace tauserve
