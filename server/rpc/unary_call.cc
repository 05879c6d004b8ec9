#include "server/rpc/unary_call.h"

#include <memory>
#include <utility>
#include <vector>

#include "server/rpc/call_reactor.h"
#include "server/rpc/hand_over.h"
#include "server/rpc/message.h"

namespace tauserve {
namespace {

// The response belongs to the engine's thread until the end.
class UnaryCall : public GenerateCall {
 public:
  UnaryCall(const ServingParts& parts, const grpc::CallbackServerContext& context,
            grpc::ServerUnaryReactor* reactor, grpc::ByteBuffer* response)
      : GenerateCall(parts, context), reactor_(reactor), bytes_(response) {}

  void OnStarted(int32_t prompt_tokens, int32_t cached_tokens) override {
    v1::PromptInfo* info = response_.mutable_prompt();
    info->set_prompt_tokens(prompt_tokens);
    info->set_cached_tokens(cached_tokens);
    for (int32_t token : prompt()) info->add_token_ids(token);
  }
  void OnPrefillProgress(int32_t, int32_t, std::vector<TokenLogprob> logprobs) override {
    for (const TokenLogprob& logprob : logprobs) {
      *response_.mutable_prompt()->add_logprobs() = ToProto(logprob);
    }
  }
  void OnDelta(Delta delta) override {
    v1::Candidate& candidate = CandidateAt(delta.candidate);
    if (view().text) candidate.mutable_text()->append(delta.text);
    if (view().token_ids) {
      for (int32_t token : delta.tokens) candidate.add_token_ids(token);
    }
    for (const TokenLogprob& logprob : delta.logprobs) *candidate.add_logprobs() = ToProto(logprob);
  }
  void OnFinished(Finish finish) override {
    *CandidateAt(finish.candidate).mutable_finish() = ToProto(finish);
  }

 protected:
  absl::Status ParseRequest(const grpc::ByteBuffer& bytes, v1::GenerationInput& input) override {
    v1::GenerateRequest request;
    if (absl::Status s = Parse(bytes, request); !s.ok()) return s;
    input = std::move(*request.mutable_input());
    return absl::OkStatus();
  }

  void Answer(const grpc::Status& status, const Completion& completion) override {
    if (status.ok()) {
      response_.set_request_id(request_id());
      response_.set_model(parts().admission->model().name);
      *response_.mutable_usage() = ToUsage(completion);
      *response_.mutable_timings() = ToTimings(completion);
      *response_.mutable_attention() = ToAttention(completion);
      *bytes_ = Serialize(response_);
    }
    PassHandOver(reactor_);
    reactor_->Finish(status);
  }

 private:
  v1::Candidate& CandidateAt(int32_t index) {
    while (response_.candidates_size() <= index) {
      const int next = response_.candidates_size();
      response_.add_candidates()->set_index(next);
    }
    return *response_.mutable_candidates(index);
  }

  grpc::ServerUnaryReactor* const reactor_;
  grpc::ByteBuffer* const bytes_;
  v1::GenerateResponse response_;
};

}  // namespace

grpc::ServerUnaryReactor* StartUnaryCall(const ServingParts& parts, WorkerPool& workers,
                                         grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* response) {
  using Reactor = CallReactor<grpc::ServerUnaryReactor, UnaryCall>;
  auto* reactor = new Reactor([&](grpc::ServerUnaryReactor* made) {
    return std::make_shared<UnaryCall>(parts, *context, made, response);
  });
  reactor->Start(workers, request);
  return reactor;
}

}  // namespace tauserve
