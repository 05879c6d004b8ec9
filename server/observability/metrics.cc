#include "server/observability/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <algorithm>
#include <utility>

#include "server/observability/load_gauges.h"
#include "server/observability/process_metrics.h"

namespace tauserve {
namespace {

using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;
using Labels = std::map<std::string, std::string>;
using Buckets = Histogram::BucketBoundaries;

// From a millisecond to ten minutes: short steps and long prompts.
Buckets SecondsBuckets() {
  return {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
          2.5,   5,      10,    20,   40,    80,   160, 320,  640};
}
// Of the work for one token's mask: from a microsecond.
Buckets MaskSecondsBuckets() {
  return {0.000001, 0.0000025, 0.000005, 0.00001, 0.000025, 0.00005, 0.0001,
          0.00025,  0.0005,    0.001,    0.0025,  0.005,    0.01,    0.025};
}
// Token by token: from 100 microseconds.
Buckets TokenSecondsBuckets() {
  return {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
          0.05,   0.1,     0.25,   0.5,   1,      2.5,   5,    10};
}
Buckets SparsityBuckets() {
  return {0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 1};
}
Buckets SupportBuckets() {
  Buckets buckets;
  for (int b = 0; b + 1 < AttentionStats::kSupportBuckets; b++) buckets.push_back(int64_t{1} << b);
  return buckets;
}
Buckets IterationBuckets() {
  Buckets buckets;
  for (int b = 0; b + 1 < AttentionStats::kIterationBuckets; b++) buckets.push_back(b);
  return buckets;
}

template <size_t kSize>
void ObserveCounts(Histogram* histogram, const std::array<int64_t, kSize>& counts, double sum) {
  histogram->ObserveMultiple(std::vector<double>(counts.begin(), counts.end()), sum);
}

}  // namespace

struct Metrics::Families {
  explicit Families(const std::string& name)
      : registry(std::make_shared<prometheus::Registry>()), base{{"model_name", name}} {}

  prometheus::Family<Counter>& Counters(const char* name, const char* help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(*registry);
  }
  prometheus::Family<Gauge>& Gauges(const char* name, const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(*registry);
  }
  prometheus::Family<Histogram>& Histograms(const char* name, const char* help) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(*registry);
  }
  Labels With(Labels labels) const {
    labels.insert(base.begin(), base.end());
    return labels;
  }
  Counter* OneCounter(const char* name, const char* help) {
    return &Counters(name, help).Add(base);
  }
  Histogram* OneHistogram(const char* name, const char* help, const Buckets& buckets) {
    return &Histograms(name, help).Add(base, buckets);
  }
  // One for each phase.
  std::array<Counter*, 2> PhaseCounters(const char* name, const char* help) {
    auto& family = Counters(name, help);
    return {&family.Add(With({{"phase", "prefill"}})), &family.Add(With({{"phase", "decode"}}))};
  }
  std::array<Histogram*, 2> PhaseHistograms(const char* name, const char* help,
                                            const Buckets& buckets) {
    auto& family = Histograms(name, help);
    return {&family.Add(With({{"phase", "prefill"}}), buckets),
            &family.Add(With({{"phase", "decode"}}), buckets)};
  }

  std::shared_ptr<prometheus::Registry> registry;
  Labels base;

  prometheus::Family<Counter>& requests =
      Counters("tauserve_requests_total",
               "Generate calls that have ended, by gRPC status and by "
               "what finished the generation.");
  prometheus::Family<Counter>& rejections =
      Counters("tauserve_admission_rejections_total", "Generate calls refused before they ran.");
  prometheus::Family<Counter>& unauthorized =
      Counters("tauserve_unauthorized_calls_total",
               "Calls of any method refused for want of a token, before they were read.");
  Counter* prompt_tokens =
      OneCounter("tauserve_prompt_tokens_total", "Prompt tokens of requests that started.");
  Counter* prefill_tokens =
      OneCounter("tauserve_prefill_tokens_total",
                 "Prompt tokens computed, step by step: not those found in the prefix cache; again "
                 "after a preemption.");
  Counter* generation_tokens = OneCounter("tauserve_generation_tokens_total", "Tokens generated.");
  Counter* preemptions =
      OneCounter("tauserve_preemptions_total",
                 "Running requests that gave their pages to older ones, to compute them anew.");
  Counter* prefix_queries = OneCounter("tauserve_prefix_cache_query_tokens_total",
                                       "Prompt tokens looked up in the prefix cache.");
  Counter* prefix_hits = OneCounter("tauserve_prefix_cache_hit_tokens_total",
                                    "Prompt tokens found in the prefix cache.");

  Histogram* first_token = OneHistogram("tauserve_time_to_first_token_seconds",
                                        "From arrival to the first token.", SecondsBuckets());
  Histogram* inter_token = OneHistogram("tauserve_inter_token_latency_seconds",
                                        "Between two tokens of a request.", TokenSecondsBuckets());
  Histogram* duration = OneHistogram("tauserve_request_duration_seconds",
                                     "From arrival to the end of a call.", SecondsBuckets());
  Histogram* queue = OneHistogram("tauserve_request_queue_seconds",
                                  "From arrival to the first scheduled step.", SecondsBuckets());
  Histogram* prefill =
      OneHistogram("tauserve_request_prefill_seconds",
                   "From the first scheduled step to the first token.", SecondsBuckets());
  Histogram* decode = OneHistogram("tauserve_request_decode_seconds",
                                   "From the first token to the last.", SecondsBuckets());
  prometheus::Family<Histogram>& step_family =
      Histograms("tauserve_step_duration_seconds", "Duration of an engine step, by what it ran.");
  Histogram* prefill_step = &step_family.Add(With({{"kind", "prefill"}}), TokenSecondsBuckets());
  Histogram* decode_step = &step_family.Add(With({{"kind", "decode"}}), TokenSecondsBuckets());
  Histogram* mixed_step = &step_family.Add(With({{"kind", "mixed"}}), TokenSecondsBuckets());
  Counter* steps = OneCounter("tauserve_engine_steps_total", "Engine steps.");
  Gauge* stuck =
      &Gauges("tauserve_engine_stuck",
              "1 while the engine has work and nothing moves for --stuck_after; health is "
              "NOT_SERVING then.")
           .Add(base);
  Counter* nonfinite = OneCounter("tauserve_nonfinite_logits_total",
                                  "Requests that ended with INTERNAL because a logit was NaN or "
                                  "infinite, or none was finite.");

  prometheus::Family<Counter>& constraints =
      Counters("tauserve_constraints_total",
               "Requests with a constraint, by where it came from: the cache (hit), compiled "
               "(miss), or refused.");
  Histogram* constraint_compile =
      OneHistogram("tauserve_constraint_compile_seconds",
                   "Compiling a constraint, with its first mask.", TokenSecondsBuckets());
  Histogram* constraint_mask =
      OneHistogram("tauserve_constraint_mask_seconds",
                   "The mask of the tokens that a constraint allows next.", MaskSecondsBuckets());

  prometheus::Family<Gauge>& build =
      Gauges("tauserve_build_info", "Version, commit and device; always 1.");
  prometheus::Family<Gauge>& model = Gauges("tauserve_model_info", "The served model; always 1.");
  prometheus::Family<Gauge>& startup =
      Gauges("tauserve_startup_seconds", "How long the phases of the start took.");

  Counter* blocks_considered =
      OneCounter("tauserve_attention_prefill_blocks_considered_total",
                 "Blocks of 64 queries of a head by a page of 64 keys that hold a visible key.");
  Counter* blocks_scored = OneCounter("tauserve_attention_prefill_blocks_scored_total",
                                      "Of these, not proven empty before any product.");
  Counter* blocks_computed = OneCounter("tauserve_attention_prefill_blocks_computed_total",
                                        "Of these, with a non-zero weight: the values are read.");
  Counter* decode_blocks_considered =
      OneCounter("tauserve_attention_decode_blocks_considered_total",
                 "Pages that a head of a decoded token could see.");
  Counter* decode_blocks_scored = OneCounter("tauserve_attention_decode_blocks_scored_total",
                                             "Of these, not proven empty before any product.");
  Counter* decode_blocks_computed = OneCounter("tauserve_attention_decode_blocks_computed_total",
                                               "Of these, with a non-zero weight.");
  Counter* pages_considered = OneCounter("tauserve_attention_kv_pages_considered_total",
                                         "Pages of a KV head that decoded tokens could see.");
  Counter* pages_read = OneCounter("tauserve_attention_kv_pages_read_total",
                                   "Of these, not proven empty before they were read.");
  std::array<Counter*, 2> read_bytes =
      PhaseCounters("tauserve_attention_kv_read_bytes_total", "Bytes of keys and values read.");
  std::array<Counter*, 2> keys_considered = PhaseCounters(
      "tauserve_attention_keys_considered_total", "Visible keys, summed over query rows.");
  std::array<Counter*, 2> keys_scored =
      PhaseCounters("tauserve_attention_keys_scored_total", "Of these, multiplied with the query.");
  std::array<Counter*, 2> keys_support =
      PhaseCounters("tauserve_attention_keys_support_total", "Of these, with a non-zero weight.");
  std::array<Histogram*, 2> support =
      PhaseHistograms("tauserve_attention_support_tokens",
                      "Keys of non-zero weight a query row of an entmax head.", SupportBuckets());
  std::array<Histogram*, 2> iterations = PhaseHistograms(
      "tauserve_attention_tau_iterations",
      "Root-finding steps for a row's threshold after its histogram.", IterationBuckets());
  std::array<Histogram*, 2> residual = PhaseHistograms(
      "tauserve_attention_tau_residual",
      "Largest distance of a row's sum of weights from 1 before it is divided out, one "
      "observation a sequence and step.",
      {1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1});
  std::array<Counter*, 2> wide_rows =
      PhaseCounters("tauserve_attention_wide_rows_total",
                    "Rows whose candidates outgrew their buffer: the exact dense path.");
  std::array<Counter*, 2> unconverged = PhaseCounters(
      "tauserve_attention_tau_unconverged_rows_total", "Rows whose weights missed 1 by over 1e-4.");
  std::array<Histogram*, 2> sparsity =
      PhaseHistograms("tauserve_request_attention_sparsity_ratio",
                      "Share of visible keys with zero weight, a request.", SparsityBuckets());
};

Metrics::Metrics(const std::string& model_name)
    : load_gauges_(std::make_shared<LoadGauges>(model_name)),
      process_(std::make_shared<ProcessMetrics>()),
      families_(std::make_unique<Families>(model_name)) {
  // Known outcomes exist from the start, so that a rate over them does too.
  for (const char* reason : {"eos_token", "stop_token", "stop_string", "max_new_tokens",
                             "context_limit", "time_limit", "aborted", "constraint_complete"}) {
    families_->requests.Add(families_->With({{"code", "OK"}, {"finish_reason", reason}}));
  }
  for (const char* code : {"CANCELLED", "DEADLINE_EXCEEDED", "INVALID_ARGUMENT", "NOT_FOUND",
                           "ALREADY_EXISTS", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "INTERNAL"}) {
    families_->requests.Add(families_->With({{"code", code}, {"finish_reason", ""}}));
  }
  for (const char* reason :
       {"invalid_argument", "not_found", "already_exists", "resource_exhausted", "unavailable"}) {
    families_->rejections.Add(families_->With({{"reason", reason}}));
  }
  for (const char* result : {"hit", "miss", "refused"}) {
    families_->constraints.Add(families_->With({{"result", result}}));
  }
  for (const char* code : {"UNAUTHENTICATED", "PERMISSION_DENIED"}) {
    families_->unauthorized.Add(families_->With({{"code", code}}));
  }
}

Metrics::~Metrics() = default;

std::vector<std::weak_ptr<prometheus::Collectable>> Metrics::collectables() const {
  return {families_->registry, load_gauges_, process_};
}

void Metrics::SetBuildInfo(const std::string& version, const std::string& commit,
                           const std::string& device) {
  families_->build
      .Add(families_->With({{"version", version}, {"commit", commit}, {"device", device}}))
      .Set(1);
}

void Metrics::SetModelInfo(const std::string& architecture, int64_t parameters, float alpha_min,
                           float alpha_max, int64_t max_context_tokens) {
  auto alpha = [](float a) {
    char text[16];
    snprintf(text, sizeof(text), "%g", a);
    return std::string(text);
  };
  families_->model
      .Add(families_->With({{"architecture", architecture},
                            {"parameters", std::to_string(parameters)},
                            {"alpha_min", alpha(alpha_min)},
                            {"alpha_max", alpha(alpha_max)},
                            {"max_context_tokens", std::to_string(max_context_tokens)}}))
      .Set(1);
}

void Metrics::SetStartupSeconds(const std::string& phase, absl::Duration duration) {
  families_->startup.Add(families_->With({{"phase", phase}})).Set(absl::ToDoubleSeconds(duration));
}

void Metrics::SetLoadSource(std::function<LoadSnapshot()> source) {
  load_gauges_->set_source(std::move(source));
}

void Metrics::StepDone(const Step& step) {
  Histogram* histogram = step.decode_tokens == 0    ? families_->prefill_step
                         : step.prefill_tokens == 0 ? families_->decode_step
                                                    : families_->mixed_step;
  histogram->Observe(absl::ToDoubleSeconds(step.duration));
  families_->steps->Increment();
  families_->prefill_tokens->Increment(step.prefill_tokens);
}

void Metrics::AttentionDone(Phase phase, const AttentionStats& stats) {
  Families& f = *families_;
  const int p = static_cast<int>(phase);
  if (phase == Phase::kPrefill) {
    f.blocks_considered->Increment(stats.blocks_considered);
    f.blocks_scored->Increment(stats.blocks_scored);
    f.blocks_computed->Increment(stats.blocks_attended);
  } else {
    f.decode_blocks_considered->Increment(stats.blocks_considered);
    f.decode_blocks_scored->Increment(stats.blocks_scored);
    f.decode_blocks_computed->Increment(stats.blocks_attended);
    f.pages_considered->Increment(stats.pages_considered);
    f.pages_read->Increment(stats.pages_read);
  }
  f.read_bytes[p]->Increment(stats.kv_bytes_read);
  f.keys_considered[p]->Increment(stats.keys_considered);
  f.keys_scored[p]->Increment(stats.keys_scored);
  f.keys_support[p]->Increment(stats.support);
  if (stats.rows == 0) return;  // softmax heads only
  ObserveCounts(f.support[p], stats.support_histogram, stats.entmax_support);
  ObserveCounts(f.iterations[p], stats.iteration_histogram, stats.tau_iterations);
  f.residual[p]->Observe(stats.max_tau_residual);
  f.wide_rows[p]->Increment(stats.wide_rows);
  f.unconverged[p]->Increment(stats.unconverged_rows);
}

void Metrics::PrefixCacheLookup(int64_t query_tokens, int64_t hit_tokens) {
  families_->prefix_queries->Increment(query_tokens);
  families_->prefix_hits->Increment(hit_tokens);
}
void Metrics::PromptTokens(int64_t n) { families_->prompt_tokens->Increment(n); }
void Metrics::GenerationTokens(int64_t n) { families_->generation_tokens->Increment(n); }
void Metrics::Preempted(int64_t sequences) { families_->preemptions->Increment(sequences); }
void Metrics::QueueTime(absl::Duration d) { families_->queue->Observe(absl::ToDoubleSeconds(d)); }
void Metrics::PrefillTime(absl::Duration d) {
  families_->prefill->Observe(absl::ToDoubleSeconds(d));
}
void Metrics::TimeToFirstToken(absl::Duration d) {
  families_->first_token->Observe(absl::ToDoubleSeconds(d));
}
void Metrics::InterTokenLatency(absl::Duration d) {
  families_->inter_token->Observe(absl::ToDoubleSeconds(d));
}
void Metrics::DecodeTime(absl::Duration d) { families_->decode->Observe(absl::ToDoubleSeconds(d)); }
void Metrics::NonFiniteLogits() { families_->nonfinite->Increment(); }
void Metrics::EngineStuck(bool stuck) { families_->stuck->Set(stuck); }

void Metrics::ConstraintMask(absl::Duration d) {
  families_->constraint_mask->Observe(absl::ToDoubleSeconds(d));
}
void Metrics::ConstraintFound() {
  families_->constraints.Add(families_->With({{"result", "hit"}})).Increment();
}
void Metrics::ConstraintCompiled(absl::Duration d, bool ok) {
  families_->constraints.Add(families_->With({{"result", ok ? "miss" : "refused"}})).Increment();
  families_->constraint_compile->Observe(absl::ToDoubleSeconds(d));
}

void Metrics::RequestEnded(absl::string_view code, absl::string_view finish_reason,
                           absl::Duration total) {
  families_->requests
      .Add(families_->With(
          {{"code", std::string(code)}, {"finish_reason", std::string(finish_reason)}}))
      .Increment();
  families_->duration->Observe(absl::ToDoubleSeconds(total));
}

void Metrics::RequestSparsity(Phase phase, double sparsity_ratio) {
  families_->sparsity[static_cast<int>(phase)]->Observe(sparsity_ratio);
}

void Metrics::AdmissionRejected(absl::string_view reason) {
  families_->rejections.Add(families_->With({{"reason", std::string(reason)}})).Increment();
}

void Metrics::CallUnauthorized(absl::string_view code) {
  families_->unauthorized.Add(families_->With({{"code", std::string(code)}})).Increment();
}

}  // namespace tauserve
