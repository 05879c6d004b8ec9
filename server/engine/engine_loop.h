// The engine's thread and what it shares with callers; see engine.h for what the calls mean.
#ifndef TAUSERVE_SERVER_ENGINE_ENGINE_LOOP_H_
#define TAUSERVE_SERVER_ENGINE_ENGINE_LOOP_H_

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "server/engine/active_request.h"
#include "server/engine/engine.h"
#include "server/engine/phase_clock.h"
#include "server/engine/step_inputs.h"
#include "server/sampling/choose_token.h"
#include "server/sampling/sampler.h"
#include "server/scheduler/scheduler.h"
#include "server/scheduler/step_budget.h"

namespace tauserve {

class Engine::Loop {
 public:
  Loop(const EngineOptions& options, LanguageModel* model, const Tokenizer* tokenizer,
       Metrics* metrics);
  ~Loop();

  absl::Status Submit(std::shared_ptr<const Request> request);
  void Cancel(const std::string& request_id);
  std::vector<std::string> Abort(absl::Span<const std::string> request_ids);
  int32_t Drain(absl::Duration timeout);
  int64_t ClearPrefixCache();
  EngineLoad load() const;
  EnginePulse pulse() const;
  PhaseClock::Spent phase_time() const { return clock_.spent(); }
  absl::Duration RetryDelay() const;
  void Shutdown();

 private:
  // How the callers' thread wants a request to end.
  enum class Ending { kCancelled, kAborted, kDrained };
  struct Inbox {
    std::vector<std::shared_ptr<const Request>> submitted;
    // By request, not by id: an id may be used again while its first request's ending is still here.
    std::vector<std::pair<std::shared_ptr<const Request>, Ending>> endings;
    std::vector<std::function<void()>> calls;  // to run on the engine's thread
    bool empty() const { return submitted.empty() && endings.empty() && calls.empty(); }
  };

  std::vector<std::string> EndAll(absl::Span<const std::string> request_ids, Ending ending);

  void Main();
  bool WaitForWork(Inbox& inbox);
  void Apply(Inbox& inbox);
  void EndExpired();
  void RunStep();
  // Tokens and progress of a step that ran. An error is the engine's.
  absl::Status GiveOut(const Scheduler::Step& step, const StepInput& input,
                       const StepOutput& output, absl::Time now);
  // The model can't go on: ends all requests.
  void Fail(const absl::Status& status);
  void EndFailed();
  void Started(ActiveRequest& a, absl::Time now);
  void CountStep(const Scheduler::Step& step, const StepOutput& output, absl::Duration duration);
  // Tells how far a prompt is computed, and what its logits say of its tokens. False if the request has ended, since
  // they are unusable; an error is the model's. So below.
  absl::StatusOr<bool> Progress(ActiveCandidate& c, const StepInputs::Rows& rows,
                                const StepOutput& output);
  // Chooses the next token from a logit row of the step.
  absl::StatusOr<bool> Emit(ActiveCandidate& c, const StepInput& step, const StepOutput& output,
                            int64_t logit_row, absl::Time now);
  // Ends a candidate; its pages are free, unless others have them too.
  void FinishCandidate(ActiveCandidate& c, FinishReason reason);
  void Leave(ActiveCandidate& c);
  // Ends all candidates that have not ended, and the request.
  void FinishAll(ActiveRequest& a, FinishReason reason);
  // Its logits are no numbers, or its parameters leave nothing to choose from them.
  void EndUnusable(ActiveRequest& a, const absl::Status& reason);
  // Frees all that the request holds, then tells its sink.
  void End(ActiveRequest& a, absl::Status status, std::optional<FinishReason> reason);
  void PublishLoad();
  void PublishLoadLocked();
  void MeasureService();

  const EngineOptions options_;
  LanguageModel* const model_;
  const Tokenizer* const tokenizer_;
  Metrics* const metrics_;

  // The engine thread's own.
  PagePool pool_;
  std::optional<PrefixIndex> index_;
  Scheduler scheduler_;
  StepBudget step_budget_;
  Sampler sampler_;
  std::vector<uint64_t> mask_;  // of the tokens that a constraint allows
  StepInputs step_inputs_;
  PhaseClock clock_;
  absl::flat_hash_map<std::string, std::unique_ptr<ActiveRequest>> active_;
  absl::flat_hash_map<const Sequence*, ActiveCandidate*> by_sequence_;
  absl::Time last_step_ = absl::InfinitePast();
  absl::Time service_from_;  // since when ended_ are counted
  int32_t ended_ = 0;

  // Shared; guarded by mutex_.
  mutable std::mutex mutex_;
  std::condition_variable wake_;  // for the engine: inbox or stop
  std::condition_variable idle_;  // for callers: a request has ended
  Inbox inbox_;
  absl::flat_hash_map<std::string, std::shared_ptr<const Request>> in_flight_;
  int32_t telling_ = 0;  // not in flight any more, but the sink's OnEnd has not returned
  EngineLoad load_;      // as of the last publication, inbox not included
  int64_t inbox_prompt_tokens_ = 0;
  std::optional<absl::Duration> mean_service_;  // between two ends while others wait, smoothed
  bool draining_ = false;
  absl::Status failure_;  // of the model; written by the engine's thread only
  bool stop_ = false;

  // For whoever watches; written by the engine's thread only.
  std::atomic<bool> asleep_{true};
  std::atomic<uint64_t> turns_{0};  // of Main's loop
  std::atomic<int64_t> longest_step_ns_{0};

  std::mutex join_mutex_;  // Shutdown may be called by several threads
  std::thread thread_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_ENGINE_ENGINE_LOOP_H_
