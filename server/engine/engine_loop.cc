#include "server/engine/engine_loop.h"

#include <pthread.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace tauserve {
Engine::Loop::Loop(const EngineOptions& options, LanguageModel* model, const Tokenizer* tokenizer,
                   Metrics* metrics)
    : options_(options),
      model_(model),
      tokenizer_(tokenizer),
      metrics_(metrics),
      pool_(model->num_pages()),
      index_(options.enable_prefix_cache ? std::optional<PrefixIndex>(std::in_place, &pool_)
                                         : std::nullopt),
      scheduler_({options.max_batched_tokens, options.max_running_requests}, &pool_,
                 index_ ? &*index_ : nullptr),
      step_budget_(options.max_batched_tokens, options.target_step_time),
      sampler_(model->info().vocab_size),
      mask_((model->info().vocab_size + 63) / 64) {
  PublishLoad();
  thread_ = std::thread([this] { Main(); });
}

Engine::Loop::~Loop() { Shutdown(); }

void Engine::Loop::Main() {
  pthread_setname_np(pthread_self(), "tau-engine");  // for who looks at the process
  Inbox inbox;
  while (WaitForWork(inbox)) {
    clock_.Enter(EnginePhase::kSchedule);
    Apply(inbox);
    inbox = Inbox();
    EndExpired();
    if (!active_.empty() && failure_.ok()) RunStep();
    if (!failure_.ok()) EndFailed();
    clock_.Enter(EnginePhase::kAccount);
    MeasureService();
    PublishLoad();
    clock_.Enter(EnginePhase::kWait);
  }
  asleep_ = true;
}

// False when the engine is to stop; nothing is in flight then.
bool Engine::Loop::WaitForWork(Inbox& inbox) {
  std::unique_lock<std::mutex> lock(mutex_);
  // A request in flight is running or will be admitted by the next step: only an empty engine sleeps.
  asleep_ = true;
  wake_.wait(lock, [this] { return stop_ || !inbox_.empty() || !active_.empty(); });
  asleep_ = false;
  turns_++;
  std::swap(inbox, inbox_);
  // Until they are published again, what has been taken still counts as waiting.
  load_.waiting_requests += static_cast<int32_t>(inbox.submitted.size());
  load_.waiting_prompt_tokens += std::exchange(inbox_prompt_tokens_, 0);
  return !(stop_ && active_.empty() && inbox.empty());
}

void Engine::Loop::Apply(Inbox& inbox) {
  if (active_.empty()) service_from_ = absl::Now();
  for (std::shared_ptr<const Request>& request : inbox.submitted) {
    const std::string id = request->id;
    auto a = std::make_unique<ActiveRequest>(std::move(request), model_->info(), tokenizer_);
    std::vector<Sequence*> sequences;
    for (const auto& candidate : a->candidates) {
      sequences.push_back(&candidate->sequence);
      by_sequence_[&candidate->sequence] = candidate.get();
    }
    scheduler_.Add(sequences[0], {sequences.begin() + 1, sequences.end()});
    active_[id] = std::move(a);
  }
  for (const auto& [request, ending] : inbox.endings) {
    const auto it = active_.find(request->id);
    if (it == active_.end() || it->second->request != request) continue;
    if (ending == Ending::kCancelled) {
      End(*it->second, absl::CancelledError("cancelled by the client"), std::nullopt);
    } else if (ending == Ending::kDrained && !it->second->scheduled) {
      End(*it->second, absl::UnavailableError("the server shut down before the request ran"),
          std::nullopt);
    } else {
      FinishAll(*it->second, FinishReason::kAborted);
    }
  }
  for (const std::function<void()>& call : inbox.calls) call();
}

void Engine::Loop::EndExpired() {
  const absl::Time now = absl::Now();
  std::vector<ActiveRequest*> late, timed;
  for (const auto& [id, a] : active_) {
    if (now >= a->request->deadline) {
      late.push_back(a.get());
    } else if (now - a->request->arrival >= a->request->stopping.time_limit) {
      timed.push_back(a.get());
    }
  }
  for (ActiveRequest* a : late) {
    End(*a,
        absl::DeadlineExceededError(absl::StrCat("request ", a->request->id, " got ",
                                                 a->new_tokens(), " tokens before its deadline")),
        std::nullopt);
  }
  for (ActiveRequest* a : timed) FinishAll(*a, FinishReason::kTimeLimit);
}

void Engine::Loop::RunStep() {
  const Scheduler::Step& step = scheduler_.Schedule(
      step_budget_.Tokens(scheduler_.num_decoding() > 0, scheduler_.num_prompts()));
  if (!step.preempted.empty()) metrics_->Preempted(step.preempted.size());
  if (step.entries.empty()) return;
  const absl::Time start = absl::Now();
  for (Sequence* s : step.admitted) Started(*by_sequence_.at(s)->request, start);
  PublishLoad();
  const StepInput input = step_inputs_.Build(step);
  clock_.Enter(EnginePhase::kModel);
  const absl::StatusOr<StepOutput> ran = model_->Run(input);
  clock_.Enter(EnginePhase::kAccount);
  if (!ran.ok()) return Fail(ran.status());
  const StepOutput& output = *ran;
  const absl::Time now = absl::Now();
  last_step_ = now;
  longest_step_ns_ = std::max(longest_step_ns_.load(), absl::ToInt64Nanoseconds(now - start));
  CountStep(step, output, now - start);

  clock_.Enter(EnginePhase::kSchedule);
  scheduler_.Commit();
  if (const absl::Status s = GiveOut(step, input, output, now); !s.ok()) Fail(s);
}

void Engine::Loop::Fail(const absl::Status& status) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    failure_ = status;
  }
  EndFailed();
  if (options_.on_failure) options_.on_failure(status);
}

// Also of the requests that were submitted before the failure was known and reach the engine after it.
void Engine::Loop::EndFailed() {
  std::vector<ActiveRequest*> all;
  for (const auto& [id, a] : active_) all.push_back(a.get());
  for (ActiveRequest* a : all) {
    End(*a, absl::InternalError(absl::StrCat("request ", a->request->id, ": ", failure_.message())),
        std::nullopt);
  }
}

void Engine::Loop::Started(ActiveRequest& a, absl::Time now) {
  if (a.scheduled) return;  // again, after a preemption
  a.scheduled = now;
  metrics_->QueueTime(now - a.request->arrival);
  const Sequence& first = a.first();
  metrics_->PromptTokens(first.prompt_tokens());
  if (index_ && !a.request->bypass_prefix_cache && !first.scores_prompt()) {
    metrics_->PrefixCacheLookup(first.prompt_tokens(), first.cached_tokens());
  }
  a.request->sink->OnStarted(first.prompt_tokens(), first.cached_tokens());
}

// Before the commit: a slice belongs to the phase in which its first token lies.
void Engine::Loop::CountStep(const Scheduler::Step& step, const StepOutput& output,
                             absl::Duration duration) {
  Metrics::Step counted;
  counted.duration = duration;
  for (size_t i = 0; i < step.entries.size(); i++) {
    const Scheduler::Entry& entry = step.entries[i];
    ActiveRequest& a = *by_sequence_.at(entry.sequence)->request;
    const bool prefill = entry.sequence->in_prefill();
    (prefill ? counted.prefill_tokens : counted.decode_tokens) += entry.num_tokens;
    (prefill ? a.prefill_attention : a.decode_attention).Add(output.stats[i]);
    metrics_->AttentionDone(prefill ? Phase::kPrefill : Phase::kDecode, output.stats[i]);
  }
  step_budget_.Done(counted.prefill_tokens, duration);
  metrics_->StepDone(counted);
}

// Requests that end in one step count together: their sum is the rate. With nobody waiting the engine is idle in part,
// and its rate says nothing about a queue.
void Engine::Loop::MeasureService() {
  if (ended_ == 0) return;
  const absl::Time now = absl::Now();
  const absl::Duration each = (now - service_from_) / ended_;
  ended_ = 0;
  service_from_ = now;
  if (scheduler_.num_waiting() == 0) return;
  std::lock_guard<std::mutex> lock(mutex_);
  mean_service_ = mean_service_ ? 0.8 * *mean_service_ + 0.2 * each : each;
}

void Engine::Loop::PublishLoad() {
  std::lock_guard<std::mutex> lock(mutex_);
  PublishLoadLocked();
}

void Engine::Loop::PublishLoadLocked() {
  load_.running_requests = 0;
  for (const auto& [id, a] : active_) {
    load_.running_requests +=
        std::any_of(a->candidates.begin(), a->candidates.end(),
                    [](const auto& candidate) { return candidate->sequence.running(); });
  }
  load_.waiting_requests = static_cast<int32_t>(active_.size()) - load_.running_requests;
  load_.waiting_prompt_tokens = scheduler_.waiting_prompt_tokens();
  load_.pages_total = pool_.num_pages();
  load_.pages_free = pool_.free_pages();
  load_.last_step = last_step_;
}

}  // namespace tauserve
