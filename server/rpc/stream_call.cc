#include "server/rpc/stream_call.h"

#include <deque>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "server/rpc/call_reactor.h"
#include "server/rpc/hand_over.h"
#include "server/rpc/message.h"
#include "server/rpc/outbox.h"

namespace tauserve {
namespace {

using Response = v1::GenerateStreamResponse;
using Reactor = grpc::ServerWriteReactor<grpc::ByteBuffer>;

// Of a message, which clients bound to 4 MB unless told otherwise: a token's, with 20 alternatives, are about 300 bytes.
constexpr int kMostLogprobs = 4096;

// Sits between the engine, which fills the outbox, and the reactor, which writes one message at a time. Writing, system
// calls included, happens on the writers' threads and gRPC's, never on the engine's.
class StreamCall : public GenerateCall {
 public:
  StreamCall(const ServingParts& parts, const grpc::CallbackServerContext& context,
             WorkerPool* writers, Reactor* reactor)
      : GenerateCall(parts, context), writers_(writers), reactor_(reactor) {}

  void WriteDone(bool ok) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      writing_ = false;
      if (!ok) broken_ = true;
    }
    Pump();
  }

  void OnStarted(int32_t prompt_tokens, int32_t cached_tokens) override {
    Put(Outbox::Started{prompt_tokens, cached_tokens});
  }
  void OnPrefillProgress(int32_t processed_tokens, int32_t total_tokens,
                         std::vector<TokenLogprob> logprobs) override {
    if (!progress_ && !view().prompt_logprobs) return;
    Put(Outbox::Progress{processed_tokens, total_tokens, std::move(logprobs)});
  }
  void OnDelta(Delta delta) override { Put(std::move(delta)); }
  void OnFinished(Finish finish) override { Put(std::move(finish)); }

 protected:
  absl::Status ParseRequest(const grpc::ByteBuffer& bytes, v1::GenerationInput& input) override {
    v1::GenerateStreamRequest request;
    if (absl::Status s = Parse(bytes, request); !s.ok()) return s;
    const v1::StreamOptions& options = request.stream();
    progress_ = !options.has_prefill_progress() || options.prefill_progress();
    input = std::move(*request.mutable_input());
    return absl::OkStatus();
  }

  void Answer(const grpc::Status& status, const Completion& completion) override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      status_ = status;
    }
    Put(completion);
  }

 private:
  template <typename Event>
  void Put(Event event) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      outbox_.Put(std::move(event));
      // What is being written, or is about to be, is followed by this.
      if (writing_ || queued_) return;
      queued_ = true;
    }
    auto self = std::static_pointer_cast<StreamCall>(shared_from_this());
    const absl::Status queued = writers_->Run([self] { self->PumpQueued(); });
    if (!queued.ok()) PumpQueued();
  }

  void PumpQueued() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      queued_ = false;
    }
    Pump();
  }

  // Starts the next write or finishes, if nothing is being written. Messages are made outside the lock, so that the
  // engine does not wait for it; nothing of the reactor is touched after Finish.
  void Pump() {
    while (true) {
      Outbox::Event event;
      {
        std::lock_guard<std::mutex> lock(mutex_);
        if (writing_ || finished_) return;
        if (broken_) messages_.clear();
        if (messages_.empty()) {
          finished_ = last_taken_;
          if (finished_) break;
          event = outbox_.Take();
          if (std::holds_alternative<std::monostate>(event)) return;
          last_taken_ = std::holds_alternative<Completion>(event);
          if (broken_) continue;
        }
        writing_ = true;
      }
      PutMessages(event);
      if (!messages_.empty()) {
        bytes_ = Serialize(messages_.front());
        messages_.pop_front();
        PassHandOver(reactor_);
        reactor_->StartWrite(&bytes_);
        return;
      }
      std::lock_guard<std::mutex> lock(mutex_);
      writing_ = false;
    }
    PassHandOver(reactor_);
    reactor_->Finish(status_);
  }

  void PutMessages(const Outbox::Event& event) {
    if (std::holds_alternative<std::monostate>(event)) return;
    Response message;
    if (const auto* started = std::get_if<Outbox::Started>(&event)) {
      message.set_request_id(request_id());
      v1::PromptInfo* info = message.mutable_started();
      info->set_prompt_tokens(started->prompt_tokens);
      info->set_cached_tokens(started->cached_tokens);
      for (int32_t token : prompt()) info->add_token_ids(token);
    } else if (const auto* progress = std::get_if<Outbox::Progress>(&event)) {
      SetProgress(*progress, message);
    } else if (const auto* delta = std::get_if<Delta>(&event)) {
      SetDelta(*delta, *message.mutable_delta());
    } else if (const auto* finish = std::get_if<Finish>(&event)) {
      *message.mutable_candidate_finished() = ToProto(*finish);
    } else {
      if (!status_.ok()) return;
      const auto& completion = std::get<Completion>(event);
      *message.mutable_completed()->mutable_usage() = ToUsage(completion);
      *message.mutable_completed()->mutable_timings() = ToTimings(completion);
      *message.mutable_completed()->mutable_attention() = ToAttention(completion);
    }
    messages_.push_back(std::move(message));
  }

  // To `message`; of log-probabilities that don't fit into one, the first to messages before it.
  void SetProgress(const Outbox::Progress& progress, Response& message) {
    int filled = 0;
    for (const TokenLogprob& logprob : progress.logprobs) {
      if (filled++ == kMostLogprobs) {
        filled = 1;
        SetTokens(progress, message);
        messages_.push_back(std::exchange(message, Response()));
      }
      *message.mutable_prefill_progress()->add_logprobs() = ToProto(logprob);
    }
    SetTokens(progress, message);
  }

  static void SetTokens(const Outbox::Progress& progress, Response& message) {
    message.mutable_prefill_progress()->set_processed_tokens(progress.processed_tokens);
    message.mutable_prefill_progress()->set_total_tokens(progress.total_tokens);
  }

  void SetDelta(const Delta& delta, v1::CandidateDelta& proto) const {
    proto.set_index(delta.candidate);
    if (view().text) proto.set_text(delta.text);
    proto.set_num_tokens(static_cast<uint32_t>(delta.tokens.size()));
    if (view().token_ids) {
      for (int32_t token : delta.tokens) proto.add_token_ids(token);
    }
    for (const TokenLogprob& logprob : delta.logprobs) *proto.add_logprobs() = ToProto(logprob);
  }

  WorkerPool* const writers_;
  Reactor* const reactor_;
  bool progress_ = true;

  // Of whoever has set writing_:
  std::deque<Response> messages_;  // of the event being sent
  grpc::ByteBuffer bytes_;         // being written

  std::mutex mutex_;  // guards what follows
  Outbox outbox_;
  grpc::Status status_;      // the call's; constant once the Completion is in the outbox
  bool queued_ = false;      // a writer is going to look
  bool writing_ = false;     // a message is being made or written
  bool broken_ = false;      // writes fail: the client is gone, which OnCancel tells the engine
  bool last_taken_ = false;  // the Completion
  bool finished_ = false;    // Finish has been called, or is about to be
};

class StreamReactor : public CallReactor<Reactor, StreamCall> {
 public:
  using CallReactor::CallReactor;
  void OnWriteDone(bool ok) override {
    PassHandOver(this);
    const std::shared_ptr<StreamCall> held = call();
    PassHandOver(this);
    held->WriteDone(ok);
  }
};

}  // namespace

Reactor* StartStreamCall(const ServingParts& parts, WorkerPool& workers, WorkerPool& writers,
                         grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  auto* reactor = new StreamReactor(
      [&](Reactor* made) { return std::make_shared<StreamCall>(parts, *context, &writers, made); });
  reactor->Start(workers, request);
  return reactor;
}

}  // namespace tauserve
