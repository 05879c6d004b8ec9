#include "clients/cpp/top/figures.h"

#include <array>
#include <cmath>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tauserve::client::top {
namespace {

const Labels kPrefill = {{"phase", "prefill"}};
const Labels kDecode = {{"phase", "decode"}};

std::vector<FigureRow> QueueRows(const MetricsWindow& w) {
  return {
      {"Requests",
       0,
       {{"requests_running", "running", Unit::kCount, w.Value("tauserve_requests_running")},
        {"requests_waiting", "waiting", Unit::kCount, w.Value("tauserve_requests_waiting")},
        {"requests_ended_per_second", "ended/s", Unit::kCount, w.Rate("tauserve_requests_total")}}},
      {"Queue",
       0,
       {{"waiting_prompt_tokens", "tokens", Unit::kCount,
         w.Value("tauserve_waiting_prompt_tokens")},
        {"queue_seconds_p95", "p95 wait", Unit::kSeconds,
         w.Quantile(0.95, "tauserve_request_queue_seconds")},
        {"rejections_per_second", "rejected/s", Unit::kCount,
         w.Rate("tauserve_admission_rejections_total")}}},
  };
}

FigureRow PercentilesRow(const MetricsWindow& w, const char* title, const char* histogram,
                         const std::array<const char*, 3>& keys) {
  return {title,
          1,
          {{keys[0], "p50", Unit::kSeconds, w.Quantile(0.5, histogram)},
           {keys[1], "p95", Unit::kSeconds, w.Quantile(0.95, histogram)},
           {keys[2], "p99", Unit::kSeconds, w.Quantile(0.99, histogram)}}};
}

std::vector<FigureRow> SpeedRows(const MetricsWindow& w) {
  return {
      {"Prefill",
       0,
       {{"prefill_tokens_per_second", "tokens/s", Unit::kCount,
         w.Rate("tauserve_prefill_tokens_total")},
        {"prefill_seconds_p95", "p95", Unit::kSeconds,
         w.Quantile(0.95, "tauserve_request_prefill_seconds")},
        {"prefix_cache_hit_ratio", "from cache", Unit::kShare,
         w.Ratio("tauserve_prefix_cache_hit_tokens_total",
                 "tauserve_prefix_cache_query_tokens_total")}}},
      {"Decode",
       0,
       {{"decode_tokens_per_second", "tokens/s", Unit::kCount,
         w.Rate("tauserve_generation_tokens_total")},
        {"decode_step_seconds", "a step", Unit::kSeconds,
         w.Mean("tauserve_step_duration_seconds", {{"kind", "decode"}})},
        {"engine_steps_per_second", "steps/s", Unit::kCount,
         w.Rate("tauserve_engine_steps_total")}}},
      PercentilesRow(w, "First token", "tauserve_time_to_first_token_seconds",
                     {"time_to_first_token_seconds_p50", "time_to_first_token_seconds_p95",
                      "time_to_first_token_seconds_p99"}),
      PercentilesRow(w, "Next token", "tauserve_inter_token_latency_seconds",
                     {"inter_token_latency_seconds_p50", "inter_token_latency_seconds_p95",
                      "inter_token_latency_seconds_p99"}),
      {"KV cache",
       0,
       {{"kv_cache_usage_ratio", "in use", Unit::kShare, w.Value("tauserve_kv_cache_usage_ratio")},
        {"kv_pages_free", "free pages", Unit::kCount, w.Value("tauserve_kv_pages_free")},
        {"preemptions_per_second", "preempt/s", Unit::kCount,
         w.Rate("tauserve_preemptions_total")}}},
  };
}

std::vector<FigureRow> SparsityRows(const MetricsWindow& w) {
  return {
      {"Keys a row",
       0,
       {{"decode_support_tokens", "decode", Unit::kCount,
         w.Mean("tauserve_attention_support_tokens", kDecode)},
        {"prefill_support_tokens", "prefill", Unit::kCount,
         w.Mean("tauserve_attention_support_tokens", kPrefill)},
        {"decode_support_ratio", "of visible", Unit::kShare,
         w.Ratio("tauserve_attention_keys_support_total",
                 "tauserve_attention_keys_considered_total", kDecode)}}},
      {"Skipped",
       0,
       {{"decode_pages_skipped_ratio", "pages", Unit::kShare,
         1 - w.Ratio("tauserve_attention_kv_pages_read_total",
                     "tauserve_attention_kv_pages_considered_total")},
        {"prefill_blocks_skipped_ratio", "blocks", Unit::kShare,
         1 - w.Ratio("tauserve_attention_prefill_blocks_computed_total",
                     "tauserve_attention_prefill_blocks_considered_total")},
        {"decode_blocks_skipped_ratio", "of decode", Unit::kShare,
         1 - w.Ratio("tauserve_attention_decode_blocks_computed_total",
                     "tauserve_attention_decode_blocks_considered_total")}}},
      {"Tau steps",
       0,
       {{"decode_tau_iterations", "decode", Unit::kCount,
         w.Mean("tauserve_attention_tau_iterations", kDecode)},
        {"prefill_tau_iterations", "prefill", Unit::kCount,
         w.Mean("tauserve_attention_tau_iterations", kPrefill)},
        {"unconverged_rows", "unsolved", Unit::kCount,
         w.Value("tauserve_attention_tau_unconverged_rows_total")}}},
  };
}

std::vector<FigureRow> ProcessRows(const MetricsWindow& w) {
  const double engine = w.Increase("tauserve_engine_seconds_total");
  // The client's own endings are no failures.
  const double failed = w.Increase("tauserve_requests_total") -
                        w.Increase("tauserve_requests_total", {{"code", "OK"}}) -
                        w.Increase("tauserve_requests_total", {{"code", "CANCELLED"}});
  return {
      {"Engine",
       0,
       {{"engine_model_ratio", "in model", Unit::kShare,
         w.Increase("tauserve_engine_seconds_total", {{"phase", "model"}}) / engine},
        {"engine_idle_ratio", "idle", Unit::kShare,
         w.Increase("tauserve_engine_seconds_total", {{"phase", "wait"}}) / engine},
        {"nonfinite_logits", "NaN logits", Unit::kCount,
         w.Value("tauserve_nonfinite_logits_total")}}},
      {"Failed calls",
       0,
       {{"requests_failed_per_second", "failed/s", Unit::kCount,
         failed / absl::ToDoubleSeconds(w.span())},
        {"internal_errors", "internal", Unit::kCount,
         w.Value("tauserve_requests_total", {{"code", "INTERNAL"}})},
        {"unauthorized_per_second", "no token/s", Unit::kCount,
         w.Rate("tauserve_unauthorized_calls_total")}}},
      {"Process",
       0,
       {{"cpu_cores", "cores", Unit::kCount, w.Rate("process_cpu_seconds_total")},
        {"resident_memory_bytes", "memory", Unit::kBytes, w.Value("process_resident_memory_bytes")},
        {"open_fds", "open files", Unit::kCount, w.Value("process_open_fds")}}},
  };
}

std::string FormatCount(double value) {
  static constexpr const char* kLarge[] = {"", "k", "M", "G", "T"};
  size_t scale = 0;
  for (; std::abs(value) >= 9999.5 && scale + 1 < std::size(kLarge); scale++) value /= 1000;
  const bool whole = value == std::round(value) && scale == 0;
  const int digits = whole || std::abs(value) >= 99.95 ? 0 : std::abs(value) >= 9.995 ? 1 : 2;
  return absl::StrFormat("%.*f%s", digits, value, kLarge[scale]);
}

std::string FormatSeconds(double seconds) {
  if (seconds < 0.00995) return absl::StrFormat("%.2f ms", seconds * 1e3);
  if (seconds < 0.9995) return absl::StrFormat("%.0f ms", seconds * 1e3);
  if (seconds < 99.95) return absl::StrFormat("%.2f s", seconds);
  return absl::StrFormat("%.0f s", seconds);
}

}  // namespace

std::vector<FigureRow> FiguresOf(const MetricsWindow& window) {
  std::vector<FigureRow> rows;
  for (std::vector<FigureRow>& some : std::array{QueueRows(window), SpeedRows(window),
                                                 SparsityRows(window), ProcessRows(window)}) {
    rows.insert(rows.end(), some.begin(), some.end());
  }
  return rows;
}

std::string FormatFigure(double value, Unit unit) {
  if (!std::isfinite(value)) return "-";
  switch (unit) {
    case Unit::kCount:
      return FormatCount(value);
    case Unit::kSeconds:
      return FormatSeconds(value);
    case Unit::kShare:
      return absl::StrFormat("%.1f %%", 100 * value);
    case Unit::kBytes:
      return value < 1e9 ? absl::StrFormat("%.0f MB", value / 1e6)
                         : absl::StrFormat("%.1f GB", value / 1e9);
  }
  return "-";
}

ServerFacts FactsOf(const MetricsWindow& window) {
  Labels build = window.LabelsOf("tauserve_build_info");
  Labels model = window.LabelsOf("tauserve_model_info");
  ServerFacts facts;
  facts.model = build["model_name"];
  facts.architecture = model["architecture"];
  facts.alpha = model["alpha_min"] == model["alpha_max"]
                    ? model["alpha_max"]
                    : absl::StrCat(model["alpha_min"], " to ", model["alpha_max"]);
  facts.device = build["device"];
  facts.version = build["version"];
  const double start = window.Value("process_start_time_seconds");
  facts.started =
      std::isnan(start) ? absl::InfinitePast() : absl::UnixEpoch() + absl::Seconds(start);
  facts.stuck = window.Value("tauserve_engine_stuck") == 1;
  facts.draining = window.Value("tauserve_draining") == 1;
  return facts;
}

}  // namespace tauserve::client::top
