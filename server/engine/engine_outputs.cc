// What a step's logits become: tokens, results and ends of requests.
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/engine/engine_loop.h"
#include "server/engine/prompt_logprobs.h"
#include "server/request/delivery_scope.h"
#include "server/sampling/choose_token.h"

namespace tauserve {

absl::Status Engine::Loop::GiveOut(const Scheduler::Step& step, const StepInput& input,
                                   const StepOutput& output, absl::Time now) {
  std::optional<DeliveryScope> together(std::in_place);
  for (size_t i = 0; i < step.entries.size(); i++) {
    const auto it = by_sequence_.find(step.entries[i].sequence);
    if (it == by_sequence_.end()) continue;  // another candidate's token ended the request
    ActiveCandidate& c = *it->second;
    const StepInputs::Rows& rows = step_inputs_.rows()[i];
    // Not when a preempted one computes anew what its client has seen.
    const bool prompt = c.sequence.new_tokens() == 0;
    absl::StatusOr<bool> goes_on = true;
    if (prompt) {
      clock_.Enter(EnginePhase::kDeliver);
      goes_on = Progress(c, rows, output);
    }
    if (goes_on.ok() && *goes_on && rows.to_sample) {
      // Behind the prompt, all candidates begin: from the same logits.
      const ActiveRequest& a = *c.request;
      const int64_t row = rows.first + rows.of_prompt;
      const size_t begin = c.sequence.candidate();
      const size_t end = prompt ? a.candidates.size() : begin + 1;
      for (size_t k = begin; k < end && goes_on.ok() && *goes_on; k++) {
        goes_on = Emit(*a.candidates[k], input, output, row, now);
      }
    }
    if (!goes_on.ok()) return goes_on.status();
  }
  clock_.Enter(EnginePhase::kDeliver);
  together.reset();
  return absl::OkStatus();
}

absl::StatusOr<bool> Engine::Loop::Progress(ActiveCandidate& c, const StepInputs::Rows& rows,
                                            const StepOutput& output) {
  Sequence& sequence = c.sequence;
  const Request& request = *c.request->request;
  std::vector<TokenLogprob> logprobs;
  if (sequence.scores_prompt()) {
    const absl::StatusOr<absl::Status> usable =
        ScorePrompt(*model_, output, rows, sequence, &logprobs);
    if (!usable.ok()) return usable.status();
    if (!usable->ok()) {
      EndUnusable(*c.request, *usable);
      return false;
    }
  }
  request.sink->OnPrefillProgress(sequence.computed(), sequence.prompt_tokens(),
                                  std::move(logprobs));
  return true;
}

absl::StatusOr<bool> Engine::Loop::Emit(ActiveCandidate& c, const StepInput& step,
                                        const StepOutput& output, int64_t logit_row,
                                        absl::Time now) {
  ActiveRequest& a = *c.request;
  const Request& request = *a.request;
  const int64_t vocab = model_->info().vocab_size;
  SampleInput input;
  if (output.top_logits.empty() || step.queries[logit_row].whole) {
    input.logits = output.logits.subspan(logit_row * vocab, vocab);
  } else {
    input.top = &output.top_logits[logit_row];
  }
  input.prompt = request.prompt;
  input.output = c.sequence.output();
  input.candidate = c.sequence.candidate();
  if (c.sequence.new_tokens() < request.stopping.min_new_tokens) {
    input.forbidden = c.output.stop_tokens();
  }
  clock_.Enter(EnginePhase::kSample);
  if (c.output.constrained()) {
    const absl::Time begin = absl::Now();
    if (absl::Status s = c.output.FillMask(absl::MakeSpan(mask_)); !s.ok()) {
      EndUnusable(a, s);
      return false;
    }
    metrics_->ConstraintMask(absl::Now() - begin);
    input.mask = mask_;
  }
  auto chosen = ChooseToken(sampler_, request.sampling, request.output, input);
  if (chosen.ok() && !*chosen) {
    clock_.Enter(EnginePhase::kModel);
    const absl::StatusOr<absl::Span<const float>> row = model_->WholeRow(logit_row);
    if (!row.ok()) return row.status();
    clock_.Enter(EnginePhase::kSample);
    input.logits = *row;
    chosen = ChooseToken(sampler_, request.sampling, request.output, input);
  }
  if (!chosen.ok()) {
    EndUnusable(a, chosen.status());
    return false;
  }
  clock_.Enter(EnginePhase::kAccount);
  auto& [token, logprob] = **chosen;
  const bool first = c.sequence.new_tokens() == 0;
  c.sequence.Append(token);
  metrics_->GenerationTokens(1);
  if (!a.first_token) {
    a.first_token = now;
    metrics_->PrefillTime(now - *a.scheduled);
    metrics_->TimeToFirstToken(now - request.arrival);
  }
  if (!first) metrics_->InterTokenLatency(now - c.last_token);
  a.last_token = c.last_token = now;
  clock_.Enter(EnginePhase::kDetokenize);
  Delta delta;
  delta.candidate = c.sequence.candidate();
  const std::optional<FinishReason> reason = c.output.Append(
      token, c.sequence.new_tokens(), c.sequence.num_tokens(), std::move(logprob), delta);
  clock_.Enter(EnginePhase::kDeliver);
  request.sink->OnDelta(std::move(delta));
  if (!reason) return true;
  FinishCandidate(c, *reason);
  if (a.unfinished > 0) return true;
  End(a, absl::OkStatus(), reason);
  return false;
}

void Engine::Loop::FinishCandidate(ActiveCandidate& c, FinishReason reason) {
  ResultSink& sink = *c.request->request->sink;
  Delta rest;
  rest.candidate = c.sequence.candidate();
  rest.text = c.output.Flush();
  if (!rest.text.empty()) sink.OnDelta(std::move(rest));
  Leave(c);
  Finish finish;
  finish.candidate = c.sequence.candidate();
  finish.reason = reason;
  finish.stop_token = c.output.stop_token();
  if (reason == FinishReason::kStopString) finish.stop_string = c.output.stop_string();
  sink.OnFinished(std::move(finish));
}

void Engine::Loop::Leave(ActiveCandidate& c) {
  if (c.finished) return;
  scheduler_.Remove(&c.sequence);
  by_sequence_.erase(&c.sequence);
  c.finished = true;
  c.request->unfinished--;
}

void Engine::Loop::FinishAll(ActiveRequest& a, FinishReason reason) {
  for (const auto& candidate : a.candidates) {
    if (!candidate->finished) FinishCandidate(*candidate, reason);
  }
  End(a, absl::OkStatus(), reason);
}

void Engine::Loop::EndUnusable(ActiveRequest& a, const absl::Status& reason) {
  if (absl::IsInternal(reason)) {
    metrics_->NonFiniteLogits();
    for (const auto& candidate : a.candidates) {
      if (!candidate->finished) scheduler_.Distrust(&candidate->sequence);
    }
  }
  End(a,
      absl::Status(reason.code(), absl::StrCat("request ", a.request->id, ": ", reason.message())),
      std::nullopt);
}

void Engine::Loop::End(ActiveRequest& a, absl::Status status, std::optional<FinishReason> reason) {
  const absl::Time now = absl::Now();
  const Request& request = *a.request;
  for (const auto& candidate : a.candidates) Leave(*candidate);
  Completion c;
  c.status = std::move(status);
  c.reason = reason;
  c.prompt_tokens = a.first().prompt_tokens();
  c.cached_tokens = a.first().cached_tokens();
  c.new_tokens = a.new_tokens();
  for (const auto& candidate : a.candidates) c.preemptions += candidate->sequence.preemptions();
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

}  // namespace tauserve
