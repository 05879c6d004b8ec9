#include <limits>
#include <utility>

#include "clients/cpp/attention_report.h"
#include "clients/cpp/bench/bench_report.h"
#include "clients/cpp/metrics/exposition.h"
#include "clients/cpp/report.h"

namespace tauserve::bench {
namespace {

// Whole percents from 0 to 100: what a plot of the distribution needs.
constexpr int kQuantiles = 100;

nlohmann::ordered_json DistributionJson(const Distribution& d, const Settings& settings,
                                        bool quantiles) {
  nlohmann::ordered_json j = {{"count", d.count()}};
  if (d.count() == 0) return j;
  j["mean"] = d.mean();
  for (const double percent : settings.percentiles) {
    j["percentiles"][absl::StrCat(percent)] = d.Percentile(percent);
  }
  j["max"] = d.max();
  if (quantiles) {
    for (int i = 0; i <= kQuantiles; i++) {
      j["quantiles"].push_back(d.Percentile(100.0 * i / kQuantiles));
    }
  }
  return j;
}

nlohmann::ordered_json SummaryJson(const Summary& s, const Settings& settings, bool quantiles) {
  nlohmann::ordered_json j = {{"seconds", s.seconds},
                              {"requests", s.requests},
                              {"ok", s.ok},
                              {"interrupted", s.interrupted},
                              {"retries", s.retries},
                              {"failures", nlohmann::ordered_json::object()},
                              {"finish_reasons", s.finish_reasons}};
  for (const auto& [status, failures] : s.failures) {
    j["failures"][status] = {{"count", failures.count}, {"message", failures.message}};
  }
  j["prompt_tokens"] = s.prompt_tokens;
  j["cached_prompt_tokens"] = s.cached_prompt_tokens;
  j["output_tokens"] = s.output_tokens;
  j["output_messages"] = s.deltas;
  j["preemptions"] = s.preemptions;
  j["requests_per_second"] = s.PerSecond(s.ok);
  j["prompt_tokens_per_second"] = s.PerSecond(s.prompt_tokens);
  j["output_tokens_per_second"] = s.PerSecond(s.output_tokens);
  if (settings.goodput.any()) {
    j["good"] = s.good;
    j["goodput_per_second"] = s.PerSecond(s.good);
  }
  const std::pair<const char*, const Distribution*> latencies[] = {
      {"ttft", &s.ttft},         {"itl", &s.itl},          {"tpot", &s.tpot},
      {"e2e", &s.e2e},           {"queue", &s.queue},      {"prefill", &s.prefill},
      {"send_lag", &s.send_lag}, {"loop_lag", &s.loop_lag}};
  for (const auto& [name, distribution] : latencies) {
    j["latency_seconds"][name] = DistributionJson(*distribution, settings, quantiles);
  }
  j["attention"] = client::AttentionJson(s.attention);
  return j;
}

nlohmann::ordered_json RecordJson(const RequestRecord& r) {
  nlohmann::ordered_json j = {{"index", r.index},
                              {"request_id", r.request_id},
                              {"status", r.status},
                              {"intended", r.intended},
                              {"sent", r.sent},
                              {"end", r.end},
                              {"attempts", r.attempts},
                              {"prompt_tokens", r.prompt_tokens},
                              {"output_tokens", r.output_tokens}};
  if (r.interrupted) j["interrupted"] = true;
  if (!r.ok()) j["message"] = r.message;
  if (r.output_tokens > 0) {
    j["first_token"] = r.first_token;
    j["gaps"] = r.gaps;
  }
  if (r.completed) {
    const v1::Timings& timings = r.completed->timings();
    j["finish_reason"] = client::NameOfReason(r.finish_reason);
    j["cached_prompt_tokens"] = r.completed->usage().cached_prompt_tokens();
    j["server_seconds"] = {{"queue", client::ToSeconds(timings.queue())},
                           {"prefill", client::ToSeconds(timings.prefill())},
                           {"decode", client::ToSeconds(timings.decode())},
                           {"total", client::ToSeconds(timings.total())}};
    j["mean_support_tokens"] = r.completed->attention().mean_support_tokens();
  }
  return j;
}

}  // namespace

nlohmann::ordered_json JsonReport(const Settings& settings, const Measured& m) {
  nlohmann::ordered_json j = {
      {"tauserve_bench", TAUSERVE_VERSION},
      {"started_at", m.started_at},
      {"server",
       {{"address", m.address},
        {"model", m.model.model()},
        {"entmax_alpha", {m.model.entmax_alpha_min(), m.model.entmax_alpha_max()}},
        {"max_context_tokens", m.model.max_context_tokens()}}},
      {"settings", SettingsJson(settings)},
      {"ended_early", m.interrupted || m.run.lost},
      {"summary", SummaryJson(m.summary, settings, /*quantiles=*/true)}};
  for (const Window& w : m.windows) {
    nlohmann::ordered_json window = {{"begin", w.begin}, {"end", w.end}, {"rate", w.rate}};
    window["summary"] = SummaryJson(w.summary, settings, /*quantiles=*/false);
    j["windows"].push_back(std::move(window));
  }
  if (m.counted) {
    auto& counters = j["server_counters"] = nlohmann::ordered_json::object();
    for (const auto& [series, value] : *m.counted) {
      counters[client::WrittenSeries(series)] = value;
    }
  }
  j["client"] = {{"cpu_seconds", m.run.cpu.process},
                 {"cores", m.cores},
                 {"machine_busy_seconds", m.run.cpu.machine_busy},
                 {"machine_seconds", m.run.cpu.machine}};
  if (settings.records) {
    j["requests"] = nlohmann::ordered_json::array();
    for (const RequestRecord& record : m.run.records) j["requests"].push_back(RecordJson(record));
  }
  return j;
}

}  // namespace tauserve::bench
