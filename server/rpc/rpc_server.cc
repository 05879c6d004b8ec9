#include "server/rpc/rpc_server.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/observability/logs.h"

namespace tauserve {
namespace {

std::unique_ptr<grpc::Server> Serve(const std::string& address, grpc::Service* service,
                                    int32_t max_message_bytes, int* port) {
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), port);
  builder.RegisterService(service);
  builder.SetMaxReceiveMessageSize(max_message_bytes);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a port in use is an error
  // Clients may ping idle streams: a long prefill sends nothing for a while.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);  // finds clients that vanished
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
  rpc->server_ = Serve(options.listen, &rpc->inference_, options.max_message_bytes, &port);
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
      Serve(options.control_listen, &rpc->control_, options.max_message_bytes, &port);
  if (rpc->control_server_ == nullptr || port == 0) {
    return CannotListen("control_listen", options.control_listen);
  }
  rpc->control_address_ = WithPort(options.control_listen, port);
  return rpc;
}

RpcServer::~RpcServer() { Shutdown(absl::ZeroDuration()); }

void RpcServer::SetReady(bool ready) {
  std::lock_guard<std::mutex> lock(mutex_);
  health_->SetServingStatus(v1::InferenceService::service_full_name(), ready);
}

void RpcServer::SetFailed() {
  std::lock_guard<std::mutex> lock(mutex_);
  health_->SetServingStatus(false);  // of all names
}

int32_t RpcServer::Drain(absl::Duration timeout) {
  SetReady(false);
  return engine_->Drain(timeout);
}

void RpcServer::Shutdown(absl::Duration timeout) {
  // Both at once: each takes its whole time while a client keeps an idle connection open.
  std::thread control([this, timeout] {
    if (control_server_ != nullptr) control_server_->Shutdown(In(timeout));
  });
  if (server_ != nullptr) server_->Shutdown(In(timeout));
  control.join();
}

}  // namespace tauserve
