#include "server/engine/engine_loop.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/sampling/choose_token.h"

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
  Inbox inbox;
  while (WaitForWork(inbox)) {
    Apply(inbox);
    inbox = Inbox();
    EndExpired();
    if (!active_.empty() && failure_.ok()) RunStep();
    if (!failure_.ok()) EndFailed();
    MeasureService();
    PublishLoad();
  }
}

// False when the engine is to stop; nothing is in flight then.
bool Engine::Loop::WaitForWork(Inbox& inbox) {
  std::unique_lock<std::mutex> lock(mutex_);
  // A request in flight is running or will be admitted by the next step: only an empty engine sleeps.
  wake_.wait(lock, [this] { return stop_ || !inbox_.empty() || !active_.empty(); });
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
    scheduler_.Add(&a->sequence);
    by_sequence_[&a->sequence] = a.get();
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
      Finish(*it->second, FinishReason::kAborted);
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
                                                 a->sequence.new_tokens(),
                                                 " tokens before its deadline")),
        std::nullopt);
  }
  for (ActiveRequest* a : timed) Finish(*a, FinishReason::kTimeLimit);
}

void Engine::Loop::RunStep() {
  const Scheduler::Step& step =
      scheduler_.Schedule(step_budget_.Tokens(scheduler_.num_decoding() > 0));
  if (!step.preempted.empty()) metrics_->Preempted(step.preempted.size());
  if (step.entries.empty()) return;
  const absl::Time start = absl::Now();
  for (Sequence* s : step.admitted) Started(*by_sequence_.at(s), start);
  PublishLoad();
  const StepInput input = step_inputs_.Build(step.entries);
  const absl::StatusOr<StepOutput> ran = model_->Run(input);
  if (!ran.ok()) return Fail(ran.status());
  const StepOutput& output = *ran;
  const absl::Time now = absl::Now();
  last_step_ = now;
  CountStep(step, output, now - start);

  scheduler_.Commit();
  int64_t row = 0;
  for (const Scheduler::Entry& entry : step.entries) {
    ActiveRequest& a = *by_sequence_.at(entry.sequence);
    // Not when a preempted one computes anew what its client has seen.
    if (entry.sequence->new_tokens() == 0) {
      a.request->sink->OnPrefillProgress(entry.sequence->computed(),
                                         entry.sequence->prompt_tokens());
    }
    if (entry.sequence->remaining() > 0) continue;  // more of its prompt is to come
    if (absl::Status s = Emit(a, input, output, row++, now); !s.ok()) return Fail(s);
  }
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
  metrics_->PromptTokens(a.sequence.prompt_tokens());
  if (index_ && !a.request->bypass_prefix_cache) {
    metrics_->PrefixCacheLookup(a.sequence.prompt_tokens(), a.sequence.cached_tokens());
  }
  a.request->sink->OnStarted(a.sequence.prompt_tokens(), a.sequence.cached_tokens());
}

// Before the commit: a slice belongs to the phase in which its first token lies.
void Engine::Loop::CountStep(const Scheduler::Step& step, const StepOutput& output,
                             absl::Duration duration) {
  Metrics::Step counted;
  counted.duration = duration;
  for (size_t i = 0; i < step.entries.size(); i++) {
    const Scheduler::Entry& entry = step.entries[i];
    ActiveRequest& a = *by_sequence_.at(entry.sequence);
    const bool prefill = entry.sequence->in_prefill();
    (prefill ? counted.prefill_tokens : counted.decode_tokens) += entry.num_tokens;
    (prefill ? a.prefill_attention : a.decode_attention).Add(output.stats[i]);
    metrics_->AttentionDone(prefill ? Phase::kPrefill : Phase::kDecode, output.stats[i]);
  }
  step_budget_.Done(counted.prefill_tokens, duration);
  metrics_->StepDone(counted);
}

absl::Status Engine::Loop::Emit(ActiveRequest& a, const StepInput& step, const StepOutput& output,
                                int64_t logit_row, absl::Time now) {
  const Request& request = *a.request;
  const int64_t vocab = model_->info().vocab_size;
  SampleInput input;
  if (output.top_logits.empty() || step.queries[logit_row].whole) {
    input.logits = output.logits.subspan(logit_row * vocab, vocab);
  } else {
    input.top = &output.top_logits[logit_row];
  }
  input.prompt = request.prompt;
  input.output = a.sequence.output();
  if (a.sequence.new_tokens() < request.stopping.min_new_tokens) {
    input.forbidden = a.output.stop_tokens();
  }
  if (a.output.constrained()) {
    const absl::Time begin = absl::Now();
    if (absl::Status s = a.output.FillMask(absl::MakeSpan(mask_)); !s.ok()) {
      End(a, absl::Status(s.code(), absl::StrCat("request ", request.id, ": ", s.message())),
          std::nullopt);
      return absl::OkStatus();
    }
    metrics_->ConstraintMask(absl::Now() - begin);
    input.mask = mask_;
  }
  auto chosen = ChooseToken(sampler_, request.sampling, request.output, input);
  if (chosen.ok() && !*chosen) {
    const absl::StatusOr<absl::Span<const float>> row = model_->WholeRow(logit_row);
    if (!row.ok()) return row.status();
    input.logits = *row;
    chosen = ChooseToken(sampler_, request.sampling, request.output, input);
  }
  if (!chosen.ok()) {
    End(a,
        absl::InternalError(absl::StrCat("request ", request.id, ": ", chosen.status().message())),
        std::nullopt);
    return absl::OkStatus();
  }
  auto& [token, logprob] = **chosen;
  a.sequence.Append(token);
  metrics_->GenerationTokens(1);
  if (!a.first_token) {
    a.first_token = now;
    metrics_->PrefillTime(now - *a.scheduled);
    metrics_->TimeToFirstToken(now - request.arrival);
  } else {
    metrics_->InterTokenLatency(now - a.last_token);
  }
  a.last_token = now;
  Delta delta;
  const std::optional<FinishReason> reason = a.output.Append(
      token, a.sequence.new_tokens(), a.sequence.num_tokens(), std::move(logprob), delta);
  request.sink->OnDelta(std::move(delta));
  if (reason) Finish(a, *reason);
  return absl::OkStatus();
}

void Engine::Loop::Finish(ActiveRequest& a, FinishReason reason) {
  Delta rest;
  rest.text = a.output.Flush();
  if (!rest.text.empty()) a.request->sink->OnDelta(std::move(rest));
  End(a, absl::OkStatus(), reason);
}

void Engine::Loop::End(ActiveRequest& a, absl::Status status, std::optional<FinishReason> reason) {
  const absl::Time now = absl::Now();
  const Request& request = *a.request;
  Completion c;
  c.status = std::move(status);
  c.reason = reason;
  c.stop_token = a.output.stop_token();
  if (reason == FinishReason::kStopString) c.stop_string = a.output.stop_string();
  c.prompt_tokens = a.sequence.prompt_tokens();
  c.cached_tokens = a.sequence.cached_tokens();
  c.new_tokens = a.sequence.new_tokens();
  c.preemptions = a.sequence.preemptions();
  c.queue = a.scheduled.value_or(now) - request.arrival;
  c.total = now - request.arrival;
  if (a.scheduled) c.prefill = a.first_token.value_or(now) - *a.scheduled;
  if (a.first_token) {
    c.time_to_first_token = *a.first_token - request.arrival;
    c.decode = a.last_token - *a.first_token;
    metrics_->DecodeTime(c.decode);
  }
  c.prefill_attention = a.prefill_attention;
  c.decode_attention = a.decode_attention;

  scheduler_.Remove(&a.sequence);
  by_sequence_.erase(&a.sequence);
  const auto node = active_.extract(request.id);  // `a` lives until the end of this function
  ended_++;
  {
    // First the id is free again: who learns of the end may use it at once.
    std::lock_guard<std::mutex> lock(mutex_);
    PublishLoadLocked();
    in_flight_.erase(request.id);
    telling_++;
  }
  request.sink->OnEnd(c);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    telling_--;
  }
  idle_.notify_all();
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
  load_.running_requests = scheduler_.num_running();
  load_.waiting_requests = scheduler_.num_waiting();
  load_.waiting_prompt_tokens = scheduler_.waiting_prompt_tokens();
  load_.pages_total = pool_.num_pages();
  load_.pages_free = pool_.free_pages();
  load_.last_step = last_step_;
}

}  // namespace tauserve
