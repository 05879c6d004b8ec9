// The GenerateStream call.
#ifndef TAUSERVE_SERVER_RPC_STREAM_CALL_H_
#define TAUSERVE_SERVER_RPC_STREAM_CALL_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include "server/rpc/generation.h"

namespace tauserve {

grpc::ServerWriteReactor<v1::GenerateStreamResponse>* StartStreamCall(
    const ServingParts& parts, grpc::CallbackServerContext* context,
    const v1::GenerateStreamRequest* request);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_RPC_STREAM_CALL_H_
