#include "server/rpc/stream_call.h"

#include <deque>
#include <memory>
#include <mutex>
#include <utility>

#include "server/rpc/outbox.h"

namespace tauserve {
namespace {

using Response = v1::GenerateStreamResponse;

// Sits between the engine, which fills the outbox, and the reactor, which writes one message at a time. Both hold it by
// shared_ptr: whoever lets go last destroys it. The reactor is touched only until Finish has been called.
class StreamCall : public ResultSink {
 public:
  StreamCall(const ServingParts& parts, const grpc::CallbackServerContext& context,
             const v1::GenerateStreamRequest& request, grpc::ServerWriteReactor<Response>* reactor)
      : generation_(parts, context),
        view_(ToView(request.input().response())),
        progress_(!request.stream().has_prefill_progress() || request.stream().prefill_progress()),
        reactor_(reactor) {}

  void Start(const v1::GenerationInput& input, std::shared_ptr<StreamCall> self) {
    std::unique_lock<std::mutex> lock(mutex_);
    const grpc::Status status = generation_.Start(input, std::move(self));
    started_ = status.ok();
    if (started_) return;
    finished_ = true;
    lock.unlock();
    reactor_->Finish(status);
  }

  void Cancel() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (started_ && !engine_done_) generation_.Cancel();
  }

  void WriteDone(bool ok) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      writing_ = false;
      if (!ok) broken_ = true;  // the client is gone; OnCancel has told the engine, or will
    }
    Pump();
  }

  void OnStarted(int32_t prompt_tokens, int32_t cached_tokens) override {
    Put(Outbox::Started{prompt_tokens, cached_tokens});
  }
  void OnPrefillProgress(int32_t processed_tokens, int32_t total_tokens) override {
    if (progress_) Put(Outbox::Progress{processed_tokens, total_tokens});
  }
  void OnDelta(Delta delta) override { Put(std::move(delta)); }
  void OnEnd(const Completion& completion) override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      engine_done_ = true;
    }
    Put(completion);
  }

 private:
  template <typename Event>
  void Put(Event event) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      outbox_.Put(std::move(event));
    }
    Pump();
  }

  // Starts the next write or finishes, if nothing is being written. Reactor calls are made outside the lock, and
  // nothing of the reactor is touched after Finish.
  void Pump() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (writing_ || finished_) return;
    if (messages_.empty()) Fetch();
    if (broken_) messages_.clear();
    if (!messages_.empty()) {
      message_ = std::move(messages_.front());
      messages_.pop_front();
      writing_ = true;
      lock.unlock();
      reactor_->StartWrite(&message_);
    } else if (ended_) {
      finished_ = true;
      lock.unlock();
      reactor_->Finish(status_);
    }
  }

  // Turns the outbox's next event into messages.
  void Fetch() {
    Outbox::Event event = outbox_.Take();
    while (broken_ && !std::holds_alternative<std::monostate>(event) &&
           !std::holds_alternative<Completion>(event)) {
      event = outbox_.Take();
    }
    if (const auto* started = std::get_if<Outbox::Started>(&event)) {
      Response message;
      message.set_request_id(generation_.request_id());
      v1::PromptInfo* prompt = message.mutable_started();
      prompt->set_prompt_tokens(started->prompt_tokens);
      prompt->set_cached_tokens(started->cached_tokens);
      for (int32_t token : generation_.prompt()) prompt->add_token_ids(token);
      messages_.push_back(std::move(message));
    } else if (const auto* progress = std::get_if<Outbox::Progress>(&event)) {
      Response message;
      message.mutable_prefill_progress()->set_processed_tokens(progress->processed_tokens);
      message.mutable_prefill_progress()->set_total_tokens(progress->total_tokens);
      messages_.push_back(std::move(message));
    } else if (const auto* delta = std::get_if<Delta>(&event)) {
      messages_.push_back(ToMessage(*delta));
    } else if (const auto* completion = std::get_if<Completion>(&event)) {
      PutEnd(*completion);
    }
  }

  Response ToMessage(const Delta& delta) const {
    Response message;
    v1::CandidateDelta* proto = message.mutable_delta();
    if (view_.text) proto->set_text(delta.text);
    proto->set_num_tokens(static_cast<uint32_t>(delta.tokens.size()));
    if (view_.token_ids) {
      for (int32_t token : delta.tokens) proto->add_token_ids(token);
    }
    for (const TokenLogprob& logprob : delta.logprobs) *proto->add_logprobs() = ToProto(logprob);
    return message;
  }

  void PutEnd(const Completion& completion) {
    ended_ = true;
    status_ = generation_.End(completion);
    if (!status_.ok()) return;
    Response finished, completed;
    *finished.mutable_candidate_finished() = ToFinished(completion);
    *completed.mutable_completed()->mutable_usage() = ToUsage(completion);
    *completed.mutable_completed()->mutable_timings() = ToTimings(completion);
    *completed.mutable_completed()->mutable_attention() = ToAttention(completion);
    messages_.push_back(std::move(finished));
    messages_.push_back(std::move(completed));
  }

  std::mutex mutex_;
  Generation generation_;
  const ResponseView view_;
  const bool progress_;
  grpc::ServerWriteReactor<Response>* const reactor_;
  Outbox outbox_;
  std::deque<Response> messages_;  // of the event being sent
  Response message_;               // being written
  bool started_ = false;
  bool engine_done_ = false;  // another request may have this one's id now
  bool writing_ = false;
  bool broken_ = false;    // writes fail: the client is gone
  bool ended_ = false;     // the engine's last word has been taken; status_ is the call's
  bool finished_ = false;  // Finish has been called
  grpc::Status status_;
};

class StreamReactor : public grpc::ServerWriteReactor<Response> {
 public:
  StreamReactor(const ServingParts& parts, grpc::CallbackServerContext* context,
                const v1::GenerateStreamRequest* request)
      : call_(std::make_shared<StreamCall>(parts, *context, *request, this)) {
    call_->Start(request->input(), call_);
  }
  void OnWriteDone(bool ok) override { call_->WriteDone(ok); }
  void OnCancel() override { call_->Cancel(); }
  void OnDone() override { delete this; }

 private:
  const std::shared_ptr<StreamCall> call_;
};

}  // namespace

grpc::ServerWriteReactor<Response>* StartStreamCall(const ServingParts& parts,
                                                    grpc::CallbackServerContext* context,
                                                    const v1::GenerateStreamRequest* request) {
  return new StreamReactor(parts, context, request);
}

}  // namespace tauserve
