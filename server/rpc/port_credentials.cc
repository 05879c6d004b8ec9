#include "server/rpc/port_credentials.h"

#include <grpc/grpc.h>

#include <mutex>
#include <utility>
#include <vector>

#include "server/rpc/authorization.h"
#include "server/rpc/hand_over.h"

namespace tauserve {
namespace {

// What gRPC's callbacks need. Its credentials own it, because connections keep those for longer than a server lives.
struct PortState {
  std::shared_ptr<const Watched<TlsFiles>> tls;
  std::unique_ptr<const Authorizer> authorizer;
  std::mutex mutex;
  std::shared_ptr<const TlsFiles> fetched;  // what gRPC has; guarded by mutex
};

// gRPC asks before every handshake.
grpc_ssl_certificate_config_reload_status FetchFiles(void* user_data,
                                                     grpc_ssl_server_certificate_config** config) {
  auto& state = *static_cast<PortState*>(user_data);
  PassHandOver(&state);
  std::lock_guard<std::mutex> lock(state.mutex);
  std::shared_ptr<const TlsFiles> files = state.tls->value();
  if (files == state.fetched) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
  const grpc_ssl_pem_key_cert_pair identity = {files->key.c_str(), files->cert.c_str()};
  // gRPC insists on authorities even where it asks clients for no certificate, and then uses them for nothing.
  const std::string& authorities = files->client_ca.empty() ? files->cert : files->client_ca;
  *config = grpc_ssl_server_certificate_config_create(authorities.c_str(), &identity, 1);
  state.fetched = std::move(files);
  PassHandOver(&state);
  return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
}

// gRPC asks before every call.
void Authorize(void* user_data, grpc_auth_context* /*context*/, const grpc_metadata* metadata,
               size_t count, grpc_process_auth_metadata_done_cb done, void* done_data) {
  const absl::Span<const grpc_metadata> all(metadata, count);
  auto& state = *static_cast<PortState*>(user_data);
  PassHandOver(&state);
  const absl::Status status = state.authorizer->Check(all);
  std::vector<grpc_metadata> secrets;  // which no handler needs to see
  for (const grpc_metadata& entry : all) {
    if (IsAuthorization(entry)) secrets.push_back(entry);
  }
  PassHandOver(&state);
  done(done_data, secrets.data(), secrets.size(), nullptr, 0,
       static_cast<grpc_status_code>(status.code()), std::string(status.message()).c_str());
}

}  // namespace

PortCredentials::PortCredentials(const RpcSecurity& security, Scope scope, Metrics* metrics) {
  auto state = std::make_unique<PortState>();
  state->tls = security.tls;
  if (security.tls == nullptr) {
    credentials_ = grpc_insecure_server_credentials_create();
  } else {
    const bool ask_clients = !security.tls->value()->client_ca.empty();
    credentials_ = grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(
            ask_clients ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                        : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
            FetchFiles, state.get()));
  }
  grpc_auth_metadata_processor processor = {};
  if (security.tokens != nullptr) {
    state->authorizer = std::make_unique<const Authorizer>(security.tokens, scope, metrics);
    processor.process = Authorize;
  }
  PassHandOver(state.get());
  processor.state = state.release();
  processor.destroy = [](void* owned) {
    auto* const state = static_cast<PortState*>(owned);
    PassHandOver(state);
    delete state;
  };
  grpc_server_credentials_set_auth_metadata_processor(credentials_, processor);
}

PortCredentials::~PortCredentials() { grpc_server_credentials_release(credentials_); }

int PortCredentials::AddPortToServer(const std::string& address, grpc_server* server) {
  return grpc_server_add_http2_port(server, address.c_str(), credentials_);
}

}  // namespace tauserve
