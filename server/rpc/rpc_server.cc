#include "server/rpc/rpc_server.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <climits>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/observability/logs.h"

namespace tauserve {
namespace {

// Of a call's metadata, names and values together. gRPC ends the connection of a client that sends more.
constexpr int kMaxHeaderBytes = 8 << 10;
// For TLS and the first HTTP/2 frame: who connects and says nothing is let go.
constexpr int kHandshakeMs = 20'000;

// gRPC's own word for never is INT_MAX.
int Milliseconds(absl::Duration duration) {
  return static_cast<int>(std::min<int64_t>(absl::ToInt64Milliseconds(duration), INT_MAX));
}

void SetLimits(const RpcOptions& options, grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(options.max_message_bytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxHeaderBytes);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeMs);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_concurrent_streams);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS,
                             Milliseconds(options.max_connection_age));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS,
                             Milliseconds(options.max_connection_age_grace));
  // Clients may ping idle streams, because a long prefill sends nothing for a while, and idle connections. Those that
  // ping more often than this are told to go away (ENHANCE_YOUR_CALM) at their third ping too early.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 2);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);  // finds clients that vanished
}

std::unique_ptr<grpc::Server> Serve(const RpcOptions& options, const std::string& address,
                                    std::shared_ptr<grpc::ServerCredentials> credentials,
                                    grpc::Service* service, int* port) {
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, std::move(credentials), port);
  builder.RegisterService(service);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a port in use is an error
  SetLimits(options, builder);
  return builder.BuildAndStart();
}

// What the libraries say goes to the log, as lines of level debug: what matters to a client is in its status.
void LogLibraries() {
  gpr_set_log_function([](gpr_log_func_args* line) {
    LogDebug("grpc", {{"message", line->message}});
  });
  google::protobuf::SetLogHandler(
      [](google::protobuf::LogLevel, const char*, int, const std::string& message) {
        LogDebug("protobuf", {{"message", message}});
      });
}

std::string WithPort(const std::string& address, int port) {
  return absl::StrCat(address.substr(0, address.rfind(':')), ":", port);
}

absl::Status CannotListen(const char* flag, const std::string& address) {
  return absl::UnavailableError(absl::StrCat("--", flag, ": cannot listen on ", address,
                                             ": in use, or not an address of this machine"));
}

std::chrono::system_clock::time_point In(absl::Duration timeout) {
  return absl::ToChronoTime(absl::Now() + std::min(timeout, absl::Hours(24 * 365)));
}

}  // namespace

RpcServer::RpcServer(const ServingParts& parts, ServerInfo info)
    : engine_(parts.engine),
      metrics_(parts.metrics),
      inference_(parts),
      control_(parts.engine, std::move(info),
               [this](absl::Duration timeout) { return Drain(timeout); }) {}

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(const RpcOptions& options,
                                                            const ServingParts& parts,
                                                            ServerInfo info) {
  LogLibraries();
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  std::unique_ptr<RpcServer> rpc(new RpcServer(parts, std::move(info)));
  int port = 0;
  const RpcSecurity& security = options.security;
  rpc->server_ =
      Serve(options, options.listen,
            std::make_shared<PortCredentials>(security, Scope::kInference, parts.metrics),
            &rpc->inference_, &port);
  if (rpc->server_ == nullptr || port == 0) {
    return CannotListen("listen", options.listen);
  }
  rpc->address_ = WithPort(options.listen, port);
  {
    std::lock_guard<std::mutex> lock(rpc->mutex_);
    rpc->health_ = rpc->server_->GetHealthCheckService();
  }
  rpc->SetReady(false);
  rpc->control_server_ =
      Serve(options, options.control_listen,
            std::make_shared<PortCredentials>(security, Scope::kControl, parts.metrics),
            &rpc->control_, &port);
  if (rpc->control_server_ == nullptr || port == 0) {
    return CannotListen("control_listen", options.control_listen);
  }
  rpc->control_address_ = WithPort(options.control_listen, port);
  rpc->stall_watch_ =
      std::make_unique<StallWatch>(parts.engine, options.stuck_after,
                                   [server = rpc.get()](bool stuck) { server->SetStuck(stuck); });
  return rpc;
}

RpcServer::~RpcServer() { Shutdown(absl::ZeroDuration()); }

void RpcServer::SetReady(bool ready) {
  std::lock_guard<std::mutex> lock(mutex_);
  health_->SetServingStatus(v1::InferenceService::service_full_name(), ready && !failed_);
}

void RpcServer::SetStuck(bool stuck) {
  stuck_ = stuck;
  metrics_->EngineStuck(stuck);
  if (stuck) {
    LogError("engine_stuck", {{"message", "the engine does not move: health is NOT_SERVING"}});
  } else {
    LogInfo("engine_moves", {{"message", "the engine was stuck, and is not any more"}});
  }
  std::lock_guard<std::mutex> lock(mutex_);
  health_->SetServingStatus("", !stuck && !failed_);
}

void RpcServer::SetFailed() {
  std::lock_guard<std::mutex> lock(mutex_);
  failed_ = true;
  health_->SetServingStatus(false);  // of all names
}

int32_t RpcServer::Drain(absl::Duration timeout) {
  SetReady(false);
  return engine_->Drain(timeout);
}

void RpcServer::Shutdown(absl::Duration timeout) {
  stall_watch_.reset();
  // Both at once: each takes its whole time while a client keeps an idle connection open.
  std::thread control([this, timeout] {
    if (control_server_ != nullptr) control_server_->Shutdown(In(timeout));
  });
  if (server_ != nullptr) server_->Shutdown(In(timeout));
  control.join();
}

}  // namespace tauserve
