// The GenerateStream call.
#ifndef TAUSERVE_SERVER_RPC_STREAM_CALL_H_
#define TAUSERVE_SERVER_RPC_STREAM_CALL_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include "server/rpc/generate_call.h"

namespace tauserve {

// The buffers are a GenerateStreamRequest's and GenerateStreamResponses' bytes. `workers` admit the call, `writers` write what
// the engine gives.
grpc::ServerWriteReactor<grpc::ByteBuffer>* StartStreamCall(const ServingParts& parts,
                                                            WorkerPool& workers,
                                                            WorkerPool& writers,
                                                            grpc::CallbackServerContext* context,
                                                            const grpc::ByteBuffer* request);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_RPC_STREAM_CALL_H_
