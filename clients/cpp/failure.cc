#include "clients/cpp/failure.h"

#include <iterator>

#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "clients/cpp/client.h"

namespace tauserve::client {

const char* StatusName(grpc::StatusCode code) {
  // In the order of their numbers.
  static constexpr const char* kNames[] = {"OK",
                                           "CANCELLED",
                                           "UNKNOWN",
                                           "INVALID_ARGUMENT",
                                           "DEADLINE_EXCEEDED",
                                           "NOT_FOUND",
                                           "ALREADY_EXISTS",
                                           "PERMISSION_DENIED",
                                           "RESOURCE_EXHAUSTED",
                                           "FAILED_PRECONDITION",
                                           "ABORTED",
                                           "OUT_OF_RANGE",
                                           "UNIMPLEMENTED",
                                           "INTERNAL",
                                           "UNAVAILABLE",
                                           "DATA_LOSS",
                                           "UNAUTHENTICATED"};
  return code >= 0 && code < static_cast<int>(std::size(kNames)) ? kNames[code] : "UNKNOWN";
}

std::string FailureLine(const grpc::Status& status) {
  std::string line =
      absl::StrFormat("%s: %s", StatusName(status.error_code()),
                      absl::StrReplaceAll(status.error_message(), {{"\r", " "}, {"\n", " "}}));
  if (const auto delay = RetryDelayOf(status)) {
    absl::StrAppendFormat(&line, " (try again in %.2f s)", delay->count() / 1e3);
  }
  return line;
}

int ExitCode(const grpc::Status& status) {
  if (status.ok()) return kOk;
  return status.error_code() == grpc::StatusCode::UNAVAILABLE ? kUnreachable : kRefused;
}

}  // namespace tauserve::client
