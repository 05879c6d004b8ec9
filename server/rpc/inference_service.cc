#include "server/rpc/inference_service.h"

#include "server/admission/validate.h"
#include "server/rpc/plain_call.h"
#include "server/rpc/stream_call.h"
#include "server/rpc/unary_call.h"

namespace tauserve {
namespace {

constexpr int kWorkers = 2;
constexpr int kMaxQueuedCalls = 4096;
// Tokenizing takes seconds for a megabyte or ten: such calls wait for each other, and no others for them.
constexpr int kBulkWorkers = 1;
constexpr int kMaxQueuedBulkCalls = 64;
constexpr size_t kBulkBytes = 1 << 20;
// A write takes tens of microseconds, most of them in the kernel: with many streams too much for the engine's thread.
constexpr int kWriters = 2;
constexpr int kMaxQueuedWrites = 1 << 20;  // a call is in the queue once

}  // namespace

InferenceServiceImpl::InferenceServiceImpl(const ServingParts& parts)
    : parts_(parts),
      workers_(kWorkers, kMaxQueuedCalls),
      bulk_workers_(kBulkWorkers, kMaxQueuedBulkCalls),
      writers_(kWriters, kMaxQueuedWrites) {}

WorkerPool& InferenceServiceImpl::WorkersFor(const grpc::ByteBuffer* request) {
  return request->Length() < kBulkBytes ? workers_ : bulk_workers_;
}

grpc::ServerUnaryReactor* InferenceServiceImpl::Generate(grpc::CallbackServerContext* context,
                                                         const grpc::ByteBuffer* request,
                                                         grpc::ByteBuffer* response) {
  return StartUnaryCall(parts_, WorkersFor(request), context, request, response);
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* InferenceServiceImpl::GenerateStream(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return StartStreamCall(parts_, WorkersFor(request), writers_, context, request);
}

grpc::ServerUnaryReactor* InferenceServiceImpl::Tokenize(grpc::CallbackServerContext* context,
                                                         const grpc::ByteBuffer* request,
                                                         grpc::ByteBuffer* response) {
  return AnswerOn<v1::TokenizeRequest, v1::TokenizeResponse>(
      WorkersFor(request), context, request, response,
      [this](const auto& from, auto& to) { return DoTokenize(from, to); });
}

grpc::ServerUnaryReactor* InferenceServiceImpl::Detokenize(grpc::CallbackServerContext* context,
                                                           const grpc::ByteBuffer* request,
                                                           grpc::ByteBuffer* response) {
  return AnswerOn<v1::DetokenizeRequest, v1::DetokenizeResponse>(
      WorkersFor(request), context, request, response,
      [this](const auto& from, auto& to) { return DoDetokenize(from, to); });
}

grpc::ServerUnaryReactor* InferenceServiceImpl::GetModel(grpc::CallbackServerContext* context,
                                                         const grpc::ByteBuffer* request,
                                                         grpc::ByteBuffer* response) {
  return AnswerOn<v1::GetModelRequest, v1::GetModelResponse>(
      WorkersFor(request), context, request, response,
      [this](const auto& from, auto& to) { return DoGetModel(from, to); });
}

absl::Status InferenceServiceImpl::DoTokenize(const v1::TokenizeRequest& request,
                                              v1::TokenizeResponse& response) const {
  const Admission& admission = *parts_.admission;
  if (absl::Status s = admission.CheckModel(request.model()); !s.ok()) return s;
  const bool special = !request.has_add_special_tokens() || request.add_special_tokens();
  const auto ids = request.has_chat() ? admission.chat_template().Encode(ToPrompt(request.chat()))
                                      : admission.tokenizer().Encode(request.text(), special);
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

absl::Status InferenceServiceImpl::DoGetModel(const v1::GetModelRequest& request,
                                              v1::GetModelResponse& response) const {
  const Admission& admission = *parts_.admission;
  if (absl::Status s = admission.CheckModel(request.model()); !s.ok()) return s;
  const ModelInfo& model = admission.model();
  response.set_model(model.name);
  response.set_architecture(model.architecture);
  response.set_max_context_tokens(admission.context_tokens());
  response.set_vocab_size(model.vocab_size);
  for (int32_t id : model.eos_token_ids) response.add_eos_token_ids(id);
  response.set_kv_page_tokens(kPageTokens);
  response.set_kv_pages_total(parts_.engine->load().pages_total);
  response.set_entmax_alpha_min(model.alpha_min);
  response.set_entmax_alpha_max(model.alpha_max);
  response.set_num_layers(model.num_layers);
  response.set_num_attention_heads(model.num_heads);
  response.set_num_kv_heads(model.num_kv_heads);
  response.set_head_dim(model.head_dim);
  *response.mutable_default_sampling() = ToProto(admission.default_sampling());
  response.set_chat_template(admission.chat_template().name());
  return absl::OkStatus();
}

}  // namespace tauserve
