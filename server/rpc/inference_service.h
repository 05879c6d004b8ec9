// tauserve.inference.v1.InferenceService. Its methods take messages as bytes; message.h says why.
#ifndef TAUSERVE_SERVER_RPC_INFERENCE_SERVICE_H_
#define TAUSERVE_SERVER_RPC_INFERENCE_SERVICE_H_

#include "server/rpc/generate_call.h"
#include "server/rpc/worker_pool.h"
#include "tauserve/inference/v1/inference.grpc.pb.h"

namespace tauserve {

using RawInferenceService = v1::InferenceService::WithRawCallbackMethod_Generate<
    v1::InferenceService::WithRawCallbackMethod_GenerateStream<
        v1::InferenceService::WithRawCallbackMethod_Tokenize<
            v1::InferenceService::WithRawCallbackMethod_Detokenize<
                v1::InferenceService::WithRawCallbackMethod_GetModel<
                    v1::InferenceService::Service>>>>>;

class InferenceServiceImpl : public RawInferenceService {
 public:
  explicit InferenceServiceImpl(const ServingParts& parts);

  grpc::ServerUnaryReactor* Generate(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerateStream(
      grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;

 private:
  absl::Status DoTokenize(const v1::TokenizeRequest& request, v1::TokenizeResponse& response) const;
  absl::Status DoDetokenize(const v1::DetokenizeRequest& request,
                            v1::DetokenizeResponse& response) const;
  absl::Status DoGetModel(const v1::GetModelRequest& request, v1::GetModelResponse& response) const;

  WorkerPool& WorkersFor(const grpc::ByteBuffer* request);

  const ServingParts parts_;
  WorkerPool workers_;
  WorkerPool bulk_workers_;  // for large messages
  WorkerPool writers_;       // of streams' messages
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_RPC_INFERENCE_SERVICE_H_
