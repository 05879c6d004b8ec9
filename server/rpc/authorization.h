// Decides about calls before they begin, by their tokens: every method of a port, reflection and unknown ones too,
// before a message is read. Health checks are open, because those who make them (load balancers, container runtimes)
// have no tokens.
#ifndef TAUSERVE_SERVER_RPC_AUTHORIZATION_H_
#define TAUSERVE_SERVER_RPC_AUTHORIZATION_H_

#include <grpc/grpc_security.h>

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/observability/metrics.h"
#include "server/security/token_set.h"
#include "server/security/watched.h"

namespace tauserve {

// Whether the entry carries a token.
bool IsAuthorization(const grpc_metadata& entry);

// Thread-safe.
class Authorizer {
 public:
  // `scope` is what a call needs. `metrics` counts refusals and outlives the server.
  Authorizer(std::shared_ptr<const Watched<TokenSet>> tokens, Scope scope, Metrics* metrics)
      : tokens_(std::move(tokens)), scope_(scope), metrics_(metrics) {}

  // OK, Unauthenticated or PermissionDenied, by a call's metadata.
  absl::Status Check(absl::Span<const grpc_metadata> metadata) const;

 private:
  absl::Status CheckToken(absl::Span<const grpc_metadata> metadata) const;

  const std::shared_ptr<const Watched<TokenSet>> tokens_;
  const Scope scope_;
  Metrics* const metrics_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_RPC_AUTHORIZATION_H_
