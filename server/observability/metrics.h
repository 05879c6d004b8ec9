// Every metric family of the server, in one place, on a prometheus-cpp registry of its own. Counters and histograms are
// fed by events; gauges, and times that pass without events, are read from their source at scrape time, so that they can't
// go stale. Thread-safe.
#ifndef TAUSERVE_SERVER_OBSERVABILITY_METRICS_H_
#define TAUSERVE_SERVER_OBSERVABILITY_METRICS_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "kernels/attention.h"

namespace prometheus {
class Collectable;
}

namespace tauserve {

enum class Phase { kPrefill, kDecode };

// What the engine's thread does: nothing, for want of requests; choosing what runs; the model's step; choosing tokens;
// turning them into text; handing it to the calls, which write it on threads of their own; and accounts.
enum class EnginePhase { kWait, kSchedule, kModel, kSample, kDetokenize, kDeliver, kAccount };
inline constexpr int kEnginePhases = 7;

// What is read at a scrape, at one moment.
struct LoadSnapshot {
  int64_t requests_running = 0;
  int64_t requests_waiting = 0;
  int64_t waiting_prompt_tokens = 0;
  int64_t pages_total = 0;
  int64_t pages_free = 0;
  absl::Time last_step = absl::InfinitePast();
  bool draining = false;  // new requests are refused
  std::array<absl::Duration, kEnginePhases> engine_time{};
};

class Metrics {
 public:
  explicit Metrics(const std::string& model_name);
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // --- At start
  void SetBuildInfo(const std::string& version, const std::string& commit,
                    const std::string& device);
  void SetModelInfo(const std::string& architecture, int64_t parameters, float alpha_min,
                    float alpha_max, int64_t max_context_tokens);
  void SetStartupSeconds(const std::string& phase, absl::Duration duration);
  // `source` is called at each scrape, from the scraping thread, until the next call of this function has returned.
  void SetLoadSource(std::function<LoadSnapshot()> source);

  // --- By the engine
  struct Step {
    absl::Duration duration;
    int prefill_tokens = 0;
    int decode_tokens = 0;  // kind "prefill", "decode" or "mixed" follows from the two
  };
  void StepDone(const Step& step);
  void AttentionDone(Phase phase, const AttentionStats& stats);  // one slice of one step
  void PrefixCacheLookup(int64_t query_tokens, int64_t hit_tokens);
  void PromptTokens(int64_t n);
  void GenerationTokens(int64_t n);
  void Preempted(int64_t sequences);
  void QueueTime(absl::Duration d);
  void PrefillTime(absl::Duration d);
  void TimeToFirstToken(absl::Duration d);
  void InterTokenLatency(absl::Duration d);
  void DecodeTime(absl::Duration d);
  void NonFiniteLogits();                 // a request ended for its logits
  void ConstraintMask(absl::Duration d);  // of one sequence in one step
  // By who watches it: the judgement that health rests on.
  void EngineStuck(bool stuck);

  // --- By the admission of requests with a constraint: each calls one of these once.
  void ConstraintFound();  // in the cache
  void ConstraintCompiled(absl::Duration d, bool ok);

  // --- By the RPC layer, exactly once for each generate call, however it ended. `code` is the status's name ("OK");
  // `finish_reason` is NameOf(FinishReason) or "".
  void RequestEnded(absl::string_view code, absl::string_view finish_reason, absl::Duration total);
  void RequestSparsity(Phase phase, double sparsity_ratio);  // 1 - support / considered keys
  void AdmissionRejected(absl::string_view reason);
  // A call of any method of either port was refused for its token: "UNAUTHENTICATED" or "PERMISSION_DENIED".
  void CallUnauthorized(absl::string_view code);

  // What a scrape reads; alive as long as this object.
  std::vector<std::weak_ptr<prometheus::Collectable>> collectables() const;

 private:
  class LoadGauges;
  class ProcessMetrics;
  struct Families;
  std::shared_ptr<LoadGauges> load_gauges_;
  std::shared_ptr<ProcessMetrics> process_;
  std::unique_ptr<Families> families_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_OBSERVABILITY_METRICS_H_
