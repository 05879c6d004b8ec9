// gRPC statuses are made here and nowhere else.
#ifndef TAUSERVE_SERVER_RPC_GRPC_STATUS_H_
#define TAUSERVE_SERVER_RPC_GRPC_STATUS_H_

#include <grpcpp/support/status.h>

#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace tauserve {

// With `retry_delay` the status carries a google.rpc.RetryInfo among its details.
grpc::Status ToGrpc(const absl::Status& status,
                    std::optional<absl::Duration> retry_delay = std::nullopt);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_RPC_GRPC_STATUS_H_
