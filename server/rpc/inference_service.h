// tauserve.inference.v1.InferenceService.
#ifndef TAUSERVE_SERVER_RPC_INFERENCE_SERVICE_H_
#define TAUSERVE_SERVER_RPC_INFERENCE_SERVICE_H_

#include "server/rpc/generation.h"
#include "tauserve/inference/v1/inference.grpc.pb.h"

namespace tauserve {

class InferenceServiceImpl : public v1::InferenceService::CallbackService {
 public:
  explicit InferenceServiceImpl(const ServingParts& parts) : parts_(parts) {}

  grpc::ServerUnaryReactor* Generate(grpc::CallbackServerContext* context,
                                     const v1::GenerateRequest* request,
                                     v1::GenerateResponse* response) override;
  grpc::ServerWriteReactor<v1::GenerateStreamResponse>* GenerateStream(
      grpc::CallbackServerContext* context, const v1::GenerateStreamRequest* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::GetModelResponse* response) override;

 private:
  absl::Status DoTokenize(const v1::TokenizeRequest& request, v1::TokenizeResponse& response) const;
  absl::Status DoDetokenize(const v1::DetokenizeRequest& request,
                            v1::DetokenizeResponse& response) const;

  const ServingParts parts_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_RPC_INFERENCE_SERVICE_H_
