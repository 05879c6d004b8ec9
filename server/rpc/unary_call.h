// The Generate call: collects everything, answers once.
#ifndef TAUSERVE_SERVER_RPC_UNARY_CALL_H_
#define TAUSERVE_SERVER_RPC_UNARY_CALL_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include "server/rpc/generation.h"

namespace tauserve {

grpc::ServerUnaryReactor* StartUnaryCall(const ServingParts& parts,
                                         grpc::CallbackServerContext* context,
                                         const v1::GenerateRequest* request,
                                         v1::GenerateResponse* response);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_RPC_UNARY_CALL_H_
