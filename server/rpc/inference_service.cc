#include "server/rpc/inference_service.h"

#include "absl/strings/str_cat.h"
#include "server/admission/validate.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/stream_call.h"
#include "server/rpc/unary_call.h"

namespace tauserve {
namespace {

grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

}  // namespace

grpc::ServerUnaryReactor* InferenceServiceImpl::Generate(grpc::CallbackServerContext* context,
                                                         const v1::GenerateRequest* request,
                                                         v1::GenerateResponse* response) {
  return StartUnaryCall(parts_, context, request, response);
}

grpc::ServerWriteReactor<v1::GenerateStreamResponse>* InferenceServiceImpl::GenerateStream(
    grpc::CallbackServerContext* context, const v1::GenerateStreamRequest* request) {
  return StartStreamCall(parts_, context, request);
}

grpc::ServerUnaryReactor* InferenceServiceImpl::Tokenize(grpc::CallbackServerContext* context,
                                                         const v1::TokenizeRequest* request,
                                                         v1::TokenizeResponse* response) {
  return Answer(context, DoTokenize(*request, *response));
}

absl::Status InferenceServiceImpl::DoTokenize(const v1::TokenizeRequest& request,
                                              v1::TokenizeResponse& response) const {
  const Admission& admission = *parts_.admission;
  if (absl::Status s = admission.CheckModel(request.model()); !s.ok()) return s;
  const bool special = !request.has_add_special_tokens() || request.add_special_tokens();
  const auto ids = admission.tokenizer().Encode(request.text(), special);
  if (!ids.ok()) return ids.status();
  response.set_count(static_cast<uint32_t>(ids->size()));
  for (int32_t id : *ids) {
    response.add_token_ids(id);
    if (request.return_token_strings()) {
      response.add_token_strings(admission.tokenizer().TokenString(id));
    }
  }
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* InferenceServiceImpl::Detokenize(grpc::CallbackServerContext* context,
                                                           const v1::DetokenizeRequest* request,
                                                           v1::DetokenizeResponse* response) {
  return Answer(context, DoDetokenize(*request, *response));
}

absl::Status InferenceServiceImpl::DoDetokenize(const v1::DetokenizeRequest& request,
                                                v1::DetokenizeResponse& response) const {
  const Admission& admission = *parts_.admission;
  if (absl::Status s = admission.CheckModel(request.model()); !s.ok()) return s;
  std::vector<int32_t> ids;
  ids.reserve(request.token_ids_size());
  for (uint32_t id : request.token_ids()) {
    if (absl::Status s = ValidateToken("token_ids", id, admission.tokenizer().vocab_size());
        !s.ok()) {
      return s;
    }
    ids.push_back(static_cast<int32_t>(id));
  }
  const bool skip = !request.has_skip_special_tokens() || request.skip_special_tokens();
  auto text = admission.tokenizer().Decode(ids, skip);
  if (!text.ok()) return text.status();
  response.set_text(*std::move(text));
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* InferenceServiceImpl::GetModel(grpc::CallbackServerContext* context,
                                                         const v1::GetModelRequest* request,
                                                         v1::GetModelResponse* response) {
  const Admission& admission = *parts_.admission;
  if (absl::Status s = admission.CheckModel(request->model()); !s.ok()) return Answer(context, s);
  const ModelInfo& model = admission.model();
  response->set_model(model.name);
  response->set_architecture(model.architecture);
  response->set_max_context_tokens(admission.context_tokens());
  response->set_vocab_size(model.vocab_size);
  for (int32_t id : model.eos_token_ids) response->add_eos_token_ids(id);
  response->set_kv_page_tokens(kPageTokens);
  response->set_kv_pages_total(parts_.engine->load().pages_total);
  response->set_entmax_alpha_min(model.alpha_min);
  response->set_entmax_alpha_max(model.alpha_max);
  response->set_num_layers(model.num_layers);
  response->set_num_attention_heads(model.num_heads);
  response->set_num_kv_heads(model.num_kv_heads);
  response->set_head_dim(model.head_dim);
  *response->mutable_default_sampling() = ToProto(admission.default_sampling());
  return Answer(context, absl::OkStatus());
}

}  // namespace tauserve
