// The Generate call: collects everything, answers once.
#ifndef TAUSERVE_SERVER_RPC_UNARY_CALL_H_
#define TAUSERVE_SERVER_RPC_UNARY_CALL_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include "server/rpc/generate_call.h"

namespace tauserve {

// The buffers are a GenerateRequest's and a GenerateResponse's bytes.
grpc::ServerUnaryReactor* StartUnaryCall(const ServingParts& parts, WorkerPool& workers,
                                         grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* response);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_RPC_UNARY_CALL_H_
