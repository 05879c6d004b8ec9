// The flags that say which server a program calls and as whom, and what they mean together with the
// environment.
#ifndef TAUSERVE_CLIENTS_CPP_CONNECTION_FLAGS_H_
#define TAUSERVE_CLIENTS_CPP_CONNECTION_FLAGS_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/flags/declare.h"
#include "absl/time/time.h"
#include "clients/cpp/client.h"

ABSL_DECLARE_FLAG(std::string, server);
ABSL_DECLARE_FLAG(std::string, control);
ABSL_DECLARE_FLAG(absl::Duration, timeout);
ABSL_DECLARE_FLAG(std::string, tls_ca);
ABSL_DECLARE_FLAG(std::string, tls_cert);
ABSL_DECLARE_FLAG(std::string, tls_key);
ABSL_DECLARE_FLAG(std::string, tls_server_name);
ABSL_DECLARE_FLAG(std::string, token_file);

namespace tauserve::client {

// The flag, else the variable; empty if neither is set.
std::string FlagOrVariable(const std::string& flag, const char* variable);

// The names of these flags that a program of inference takes, and `others` of its own.
std::vector<const char*> WithConnectionFlags(std::vector<const char*> others);

// --server, else $TAUSERVE_SERVER, else 127.0.0.1:50051.
std::string ServerAddress();
// --control, else $TAUSERVE_CONTROL; empty if neither is set.
std::string ControlAddress();
// --timeout; unset if it is infinite.
std::optional<Client::Duration> CallTimeout();

}  // namespace tauserve::client

#endif  // TAUSERVE_CLIENTS_CPP_CONNECTION_FLAGS_H_
