// What a port asks of those who connect and call: TLS, client certificates, tokens. On gRPC's C interface, because its
// C++ one has neither certificates that are checked before they replace others nor tokens on a port without TLS.
#ifndef TAUSERVE_SERVER_RPC_PORT_CREDENTIALS_H_
#define TAUSERVE_SERVER_RPC_PORT_CREDENTIALS_H_

#include <grpc/grpc_security.h>
#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <string>

#include "server/observability/metrics.h"
#include "server/security/tls_files.h"
#include "server/security/token_set.h"
#include "server/security/watched.h"

namespace tauserve {

struct RpcSecurity {
  std::shared_ptr<const Watched<TlsFiles>> tls;     // null: plain text
  std::shared_ptr<const Watched<TokenSet>> tokens;  // null: no call needs one
};

class PortCredentials : public grpc::ServerCredentials {
 public:
  // With tokens, calls need one with `scope`. TLS is 1.2 or later; a new connection gets the certificate that
  // `security.tls` has then. `metrics` must outlive the server.
  PortCredentials(const RpcSecurity& security, Scope scope, Metrics* metrics);
  ~PortCredentials() override;

  void SetAuthMetadataProcessor(
      const std::shared_ptr<grpc::AuthMetadataProcessor>& /*processor*/) override {}

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override;

  grpc_server_credentials* credentials_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_RPC_PORT_CREDENTIALS_H_
