// tauserve.inference.v1.ControlService, for operators.
#ifndef TAUSERVE_SERVER_RPC_CONTROL_SERVICE_H_
#define TAUSERVE_SERVER_RPC_CONTROL_SERVICE_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "server/engine/engine.h"
#include "server/rpc/worker_pool.h"
#include "tauserve/inference/v1/control.grpc.pb.h"

namespace tauserve {

namespace v1 = inference::v1;

struct ServerInfo {
  std::string version;
  std::string commit;
  std::string instance_id;
  absl::Time start;
  std::string device;
  std::vector<std::string> compiled_devices;
  EngineOptions engine;
};

class ControlServiceImpl : public v1::ControlService::CallbackService {
 public:
  // `drain(timeout)` drains the server and returns how many requests it aborted; it may block.
  ControlServiceImpl(Engine* engine, ServerInfo info, std::function<int32_t(absl::Duration)> drain);

  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const v1::GetServerInfoRequest* request,
                                          v1::GetServerInfoResponse* response) override;
  grpc::ServerUnaryReactor* GetLoad(grpc::CallbackServerContext* context,
                                    const v1::GetLoadRequest* request,
                                    v1::GetLoadResponse* response) override;
  grpc::ServerUnaryReactor* AbortRequests(grpc::CallbackServerContext* context,
                                          const v1::AbortRequestsRequest* request,
                                          v1::AbortRequestsResponse* response) override;
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context,
                                  const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override;
  grpc::ServerUnaryReactor* ClearPrefixCache(grpc::CallbackServerContext* context,
                                             const v1::ClearPrefixCacheRequest* request,
                                             v1::ClearPrefixCacheResponse* response) override;

 private:
  Engine* const engine_;
  const ServerInfo info_;
  const std::function<int32_t(absl::Duration)> drain_;
  WorkerPool waiting_;  // for calls that wait for the engine
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_RPC_CONTROL_SERVICE_H_
