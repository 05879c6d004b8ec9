// The engine: one thread that repeats schedule -> run -> commit -> emit over all requests in flight. Only this thread
// touches the scheduler, the cache and the model. It never waits for a client; with nothing to do it sleeps.
#ifndef TAUSERVE_SERVER_ENGINE_ENGINE_H_
#define TAUSERVE_SERVER_ENGINE_ENGINE_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/model/model.h"
#include "server/model/tokenizer/tokenizer.h"
#include "server/observability/metrics.h"
#include "server/request/request.h"

namespace tauserve {

struct EngineOptions {
  int32_t max_batched_tokens = 2048;  // token rows of a step
  int32_t max_running_requests = 64;  // sequences of a step
  // Beyond these Submit answers RESOURCE_EXHAUSTED; a prompt alone in the queue may be longer.
  int32_t max_waiting_requests = 256;
  int64_t max_waiting_prompt_tokens = 1 << 22;
  // How long a step may last that has somebody's next token in it: prompts get fewer tokens then. Zero: no target.
  absl::Duration target_step_time = absl::Milliseconds(200);
  bool enable_prefix_cache = true;
  // Called once, on the engine's thread, if the model fails: all requests have ended with INTERNAL then, and new ones
  // are refused. It must not call the engine.
  std::function<void(const absl::Status&)> on_failure = nullptr;
};

// What is in the engine right now; all from one moment.
struct EngineLoad {
  int32_t running_requests = 0;
  int32_t waiting_requests = 0;
  int64_t waiting_prompt_tokens = 0;
  int32_t pages_total = 0;
  int32_t pages_free = 0;  // those that only the prefix cache holds count as free
  absl::Time last_step;    // InfinitePast before the first
  bool draining = false;
};

// What shows from outside whether the engine's thread gets on.
struct EnginePulse {
  bool idle = true;  // it sleeps until there is something to do
  // Changes with every turn of the loop and, where the model tells (LanguageModel::progress), while a step gets on.
  uint64_t beats = 0;
  absl::Duration longest_quiet_step;  // so far, where the model does not tell; else zero
};

class Engine {
 public:
  // `model`, `tokenizer` and `metrics` must outlive the engine.
  Engine(const EngineOptions& options, LanguageModel* model, const Tokenizer* tokenizer,
         Metrics* metrics);
  ~Engine();  // Shutdown
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // All of these may be called from any thread.

  // After OK the request's sink gets OnEnd exactly once. Otherwise the sink is never called:
  //   RESOURCE_EXHAUSTED (queue full, with both numbers), INVALID_ARGUMENT (can never fit the cache, or a step),
  //   DEADLINE_EXCEEDED (would not get out of the queue before its deadline, by the service rate of late),
  //   ALREADY_EXISTS (id in flight), UNAVAILABLE (draining), INTERNAL (the model has failed).
  absl::Status Submit(std::shared_ptr<const Request> request);
  // The request ends with CANCELLED within one step, whatever its state. Unknown ids are ignored.
  void Cancel(const std::string& request_id);
  // The named requests (all, if empty) end OK with FinishReason::kAborted within one step. Returns those found.
  std::vector<std::string> Abort(absl::Span<const std::string> request_ids);
  // Refuses new requests from now on, waits until all have ended or `timeout` is over, aborts the rest. Returns how
  // many it aborted.
  int32_t Drain(absl::Duration timeout);
  // Drops cached prefixes that no request uses; returns the pages freed.
  int64_t ClearPrefixCache();
  EngineLoad load() const;
  EnginePulse pulse() const;  // takes no lock
  // What its thread has spent its time on, up to now; by EnginePhase.
  std::array<absl::Duration, kEnginePhases> phase_time() const;
  // How long a queued request may wait until there is room, from the service rate of the last requests; for RetryInfo.
  absl::Duration RetryDelay() const;
  // Drain with no time, then end the thread. Idempotent.
  void Shutdown();

 private:
  class Loop;
  std::unique_ptr<Loop> loop_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_ENGINE_ENGINE_H_
