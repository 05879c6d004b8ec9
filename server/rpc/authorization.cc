#include "server/rpc/authorization.h"

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "server/observability/logs.h"

namespace tauserve {
namespace {

constexpr absl::string_view kHeader = "authorization";
constexpr absl::string_view kHealth = "/grpc.health.v1.Health/";

absl::string_view View(const grpc_slice& slice) {
  return {reinterpret_cast<const char*>(GRPC_SLICE_START_PTR(slice)), GRPC_SLICE_LENGTH(slice)};
}

absl::string_view MethodOf(absl::Span<const grpc_metadata> metadata) {
  for (const grpc_metadata& entry : metadata) {
    if (View(entry.key) == ":path") return View(entry.value);
  }
  return {};
}

}  // namespace

bool IsAuthorization(const grpc_metadata& entry) { return View(entry.key) == kHeader; }

absl::Status Authorizer::CheckToken(absl::Span<const grpc_metadata> metadata) const {
  const grpc_metadata* found = nullptr;
  for (const grpc_metadata& entry : metadata) {
    if (!IsAuthorization(entry)) continue;
    if (found != nullptr) return absl::UnauthenticatedError("authorization metadata comes twice");
    found = &entry;
  }
  if (found == nullptr) {
    return absl::UnauthenticatedError("a token is needed: authorization metadata, Bearer TOKEN");
  }
  return tokens_->value()->Check(View(found->value), scope_);
}

absl::Status Authorizer::Check(absl::Span<const grpc_metadata> metadata) const {
  const absl::string_view method = MethodOf(metadata);
  if (absl::StartsWith(method, kHealth)) return absl::OkStatus();
  absl::Status status = CheckToken(metadata);
  if (!status.ok()) {
    metrics_->CallUnauthorized(absl::StatusCodeToString(status.code()));
    LogDebug("call_unauthorized",
             {{"method", std::string(method)}, {"message", std::string(status.message())}});
  }
  return status;
}

}  // namespace tauserve
