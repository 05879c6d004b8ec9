#include "server/rpc/unary_call.h"

#include <memory>
#include <mutex>
#include <utility>

namespace tauserve {
namespace {

// The engine's side of the call; the engine and the reactor hold it. Until Finish only the engine's thread writes the
// response.
class UnaryCall : public ResultSink {
 public:
  UnaryCall(const ServingParts& parts, const grpc::CallbackServerContext& context,
            const ResponseView& view, grpc::ServerUnaryReactor* reactor,
            v1::GenerateResponse* response)
      : generation_(parts, context),
        model_(parts.admission->model().name),
        view_(view),
        reactor_(reactor),
        response_(response) {}

  void Start(const v1::GenerationInput& input, std::shared_ptr<UnaryCall> self) {
    std::unique_lock<std::mutex> lock(mutex_);
    const grpc::Status status = generation_.Start(input, std::move(self));
    started_ = status.ok();
    if (started_) return;
    lock.unlock();
    reactor_->Finish(status);
  }

  void Cancel() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (started_ && !engine_done_) generation_.Cancel();
  }

  void OnStarted(int32_t prompt_tokens, int32_t cached_tokens) override {
    v1::PromptInfo* prompt = response_->mutable_prompt();
    prompt->set_prompt_tokens(prompt_tokens);
    prompt->set_cached_tokens(cached_tokens);
    for (int32_t token : generation_.prompt()) prompt->add_token_ids(token);
  }
  void OnPrefillProgress(int32_t, int32_t) override {}

  void OnDelta(Delta delta) override {
    if (view_.text) candidate_.mutable_text()->append(delta.text);
    if (view_.token_ids) {
      for (int32_t token : delta.tokens) candidate_.add_token_ids(token);
    }
    for (const TokenLogprob& logprob : delta.logprobs)
      *candidate_.add_logprobs() = ToProto(logprob);
  }

  void OnEnd(const Completion& completion) override {
    std::unique_lock<std::mutex> lock(mutex_);
    engine_done_ = true;
    const grpc::Status status = generation_.End(completion);
    if (status.ok()) {
      response_->set_request_id(generation_.request_id());
      response_->set_model(model_);
      *candidate_.mutable_finish() = ToFinished(completion);
      *response_->add_candidates() = std::move(candidate_);
      *response_->mutable_usage() = ToUsage(completion);
      *response_->mutable_timings() = ToTimings(completion);
      *response_->mutable_attention() = ToAttention(completion);
    }
    lock.unlock();
    reactor_->Finish(status);
  }

 private:
  std::mutex mutex_;
  Generation generation_;
  const std::string model_;
  const ResponseView view_;
  grpc::ServerUnaryReactor* const reactor_;
  v1::GenerateResponse* const response_;
  v1::Candidate candidate_;
  bool started_ = false;
  bool engine_done_ = false;  // another request may have this one's id now
};

class UnaryReactor : public grpc::ServerUnaryReactor {
 public:
  UnaryReactor(const ServingParts& parts, grpc::CallbackServerContext* context,
               const v1::GenerateRequest* request, v1::GenerateResponse* response)
      : call_(std::make_shared<UnaryCall>(parts, *context, ToView(request->input().response()),
                                          this, response)) {
    call_->Start(request->input(), call_);
  }
  void OnCancel() override { call_->Cancel(); }
  void OnDone() override { delete this; }

 private:
  const std::shared_ptr<UnaryCall> call_;
};

}  // namespace

grpc::ServerUnaryReactor* StartUnaryCall(const ServingParts& parts,
                                         grpc::CallbackServerContext* context,
                                         const v1::GenerateRequest* request,
                                         v1::GenerateResponse* response) {
  return new UnaryReactor(parts, context, request, response);
}

}  // namespace tauserve
