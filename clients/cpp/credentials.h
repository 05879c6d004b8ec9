// Who the user of a program is, and which server is to be believed: from flags, else from the
// environment.
#ifndef TAUSERVE_CLIENTS_CPP_CREDENTIALS_H_
#define TAUSERVE_CLIENTS_CPP_CREDENTIALS_H_

#include "absl/status/statusor.h"
#include "clients/cpp/client.h"

namespace tauserve::client {

// Reads the files that --tls_ca, --tls_cert, --tls_key and --token_file name. InvalidArgument, with
// the flag, if one can't be read, or a token can't be sent.
absl::StatusOr<Credentials> ReadCredentials();

}  // namespace tauserve::client

#endif  // TAUSERVE_CLIENTS_CPP_CREDENTIALS_H_
