// A call that did not end well, as a line for people and as the process's exit code.
#ifndef TAUSERVE_CLIENTS_CPP_FAILURE_H_
#define TAUSERVE_CLIENTS_CPP_FAILURE_H_

#include <grpcpp/support/status.h>

#include <string>

namespace tauserve::client {

inline constexpr int kOk = 0;
// The server answered with an error, is not SERVING, or did not give the expected answer.
inline constexpr int kRefused = 1;
inline constexpr int kUsage = 2;        // bad flags or arguments
inline constexpr int kUnreachable = 3;  // no connection, or the server takes no requests

// "RESOURCE_EXHAUSTED".
const char* StatusName(grpc::StatusCode code);

// "NAME: message (try again in 0.50 s)", always one line.
std::string FailureLine(const grpc::Status& status);

int ExitCode(const grpc::Status& status);

}  // namespace tauserve::client

#endif  // TAUSERVE_CLIENTS_CPP_FAILURE_H_
