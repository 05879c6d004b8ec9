#include "clients/cpp/connection_flags.h"

#include <cstdlib>

#include "absl/flags/flag.h"

ABSL_FLAG(std::string, server, "",
          "HOST:PORT of inference; else $TAUSERVE_SERVER, 127.0.0.1:50051");
ABSL_FLAG(std::string, control, "",
          "HOST:PORT of the control service; else $TAUSERVE_CONTROL, 127.0.0.1:50052");
ABSL_FLAG(absl::Duration, timeout, absl::InfiniteDuration(), "deadline of the call, such as 30s");
ABSL_FLAG(std::string, tls_ca, "",
          "speak TLS, with a server of these authorities; PEM file; else $TAUSERVE_TLS_CA");
ABSL_FLAG(std::string, tls_cert, "",
          "the client's own certificate; PEM file; else $TAUSERVE_TLS_CERT");
ABSL_FLAG(std::string, tls_key, "", "its key; PEM file; else $TAUSERVE_TLS_KEY");
ABSL_FLAG(std::string, tls_server_name, "",
          "name in the server's certificate; else $TAUSERVE_TLS_SERVER_NAME, the address's host");
ABSL_FLAG(std::string, token_file, "", "file of the token to send; else $TAUSERVE_TOKEN itself");

namespace tauserve::client {

std::string FlagOrVariable(const std::string& flag, const char* variable) {
  if (!flag.empty()) return flag;
  const char* set = std::getenv(variable);
  return set == nullptr ? "" : set;
}

std::vector<const char*> WithConnectionFlags(std::vector<const char*> others) {
  others.insert(others.end(), {"server", "timeout", "tls_ca", "tls_cert", "tls_key",
                               "tls_server_name", "token_file"});
  return others;
}

std::string ServerAddress() {
  const std::string address = FlagOrVariable(absl::GetFlag(FLAGS_server), "TAUSERVE_SERVER");
  return address.empty() ? "127.0.0.1:50051" : address;
}

std::string ControlAddress() {
  return FlagOrVariable(absl::GetFlag(FLAGS_control), "TAUSERVE_CONTROL");
}

std::optional<Client::Duration> CallTimeout() {
  const absl::Duration timeout = absl::GetFlag(FLAGS_timeout);
  if (timeout == absl::InfiniteDuration()) return std::nullopt;
  return absl::ToChronoMilliseconds(timeout);
}

}  // namespace tauserve::client
