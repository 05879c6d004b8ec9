// The two gRPC servers of a process: inference and control, each on its own address, both with reflection and
// grpc.health.v1. Health of "" says that the process lives, its device works and its engine is not stuck; of the
// inference service's name, that it takes requests.
#ifndef TAUSERVE_SERVER_RPC_RPC_SERVER_H_
#define TAUSERVE_SERVER_RPC_RPC_SERVER_H_

#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/engine/stall_watch.h"
#include "server/rpc/control_service.h"
#include "server/rpc/inference_service.h"
#include "server/rpc/port_credentials.h"

namespace tauserve {

struct RpcOptions {
  std::string listen;  // HOST:PORT; port 0 picks a free one
  std::string control_listen;
  // Of a request. gRPC refuses a larger one (RESOURCE_EXHAUSTED) while it reads it, before it makes a call of it: neither the
  // services nor an interceptor ever see one, so no metric counts it.
  int32_t max_message_bytes = 64 << 20;
  // Of one connection; a client's further calls wait in the client.
  int32_t max_concurrent_streams = 1024;
  // Then a connection takes no new calls, and those in flight may go on for `..._grace`.
  absl::Duration max_connection_age = absl::InfiniteDuration();
  absl::Duration max_connection_age_grace = absl::Minutes(10);
  RpcSecurity security = {};  // of both ports
  // An engine that has not moved for so long is stuck (stall_watch.h).
  absl::Duration stuck_after = absl::Seconds(8);
};

class RpcServer {
 public:
  // Binds and serves, not yet ready. Unavailable, with the address, if one can't be bound. `parts` must outlive it.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(const RpcOptions& options,
                                                          const ServingParts& parts,
                                                          ServerInfo info);
  ~RpcServer();  // Shutdown with no time

  const std::string& address() const { return address_; }
  const std::string& control_address() const { return control_address_; }
  void SetReady(bool ready);
  // The device failed: health is NOT_SERVING under both names, for good.
  void SetFailed();
  // The engine does not move now.
  bool stuck() const { return stuck_; }
  // Not ready from now on; waits for the requests in flight, aborts them after `timeout`. Returns how many.
  int32_t Drain(absl::Duration timeout);
  // Ends both servers; calls that are left get `timeout` to be answered.
  void Shutdown(absl::Duration timeout);

 private:
  RpcServer(const ServingParts& parts, ServerInfo info);
  void SetStuck(bool stuck);

  Engine* engine_;
  Metrics* metrics_;
  InferenceServiceImpl inference_;
  ControlServiceImpl control_;
  // Set once by Start; handlers of the control service read it as soon as that serves.
  std::mutex mutex_;
  grpc::HealthCheckServiceInterface* health_ = nullptr;  // server_'s; guarded by mutex_
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<grpc::Server> control_server_;
  std::string address_;
  std::string control_address_;
  bool failed_ = false;  // guarded by mutex_
  std::atomic<bool> stuck_{false};
  std::unique_ptr<StallWatch> stall_watch_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_RPC_RPC_SERVER_H_
