// Answers a unary call on a worker's thread: parse, handle, serialize.
#ifndef TAUSERVE_SERVER_RPC_PLAIN_CALL_H_
#define TAUSERVE_SERVER_RPC_PLAIN_CALL_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <utility>

#include "absl/status/status.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/message.h"
#include "server/rpc/worker_pool.h"

namespace tauserve {

// `handle(request, response)` returns an absl::Status. The buffers are gRPC's and live until the call is finished.
template <typename Request, typename Response, typename Handle>
grpc::ServerUnaryReactor* AnswerOn(WorkerPool& workers, grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* request, grpc::ByteBuffer* response,
                                   Handle handle) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const absl::Status queued = workers.Run([reactor, request, response, handle = std::move(handle)] {
    Request parsed;
    Response answer;
    absl::Status status = Parse(*request, parsed);
    if (status.ok()) status = handle(parsed, answer);
    if (status.ok()) *response = Serialize(answer);
    reactor->Finish(ToGrpc(status));
  });
  if (!queued.ok()) reactor->Finish(ToGrpc(queued));
  return reactor;
}

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_RPC_PLAIN_CALL_H_
