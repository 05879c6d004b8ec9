#include "server/rpc/grpc_status.h"

#include <string>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/rpc/convert.h"

namespace tauserve {

grpc::Status ToGrpc(const absl::Status& status, std::optional<absl::Duration> retry_delay) {
  if (status.ok()) return grpc::Status::OK;
  // The two libraries number the codes alike.
  const auto code = static_cast<grpc::StatusCode>(status.code());
  const std::string message(status.message());
  if (!retry_delay) return grpc::Status(code, message);
  google::rpc::RetryInfo retry;
  *retry.mutable_retry_delay() = ToProto(*retry_delay);
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(message);
  details.add_details()->PackFrom(retry);
  return grpc::Status(code, message, details.SerializeAsString());
}

}  // namespace tauserve
