// The server's certificate, its key, and the authorities of its clients, read from PEM files and checked as a TLS
// server would check them, so that nothing comes into force that no handshake could use.
#ifndef TAUSERVE_SERVER_SECURITY_TLS_FILES_H_
#define TAUSERVE_SERVER_SECURITY_TLS_FILES_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace tauserve {

struct TlsPaths {
  std::string cert;  // the server's certificate first, then the chain above it
  std::string key;   // unencrypted
  std::string
      client_ca;  // clients must have a certificate of one of these; empty: none is asked for
};

struct TlsFiles {  // PEM
  std::string cert;
  std::string key;
  std::string client_ca;
  absl::Time expires;  // the server's certificate
};

// InvalidArgument with the flag, the file and what is wrong with it. A certificate that is out of date is no error.
absl::StatusOr<TlsFiles> ReadTlsFiles(const TlsPaths& paths);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_SECURITY_TLS_FILES_H_
