#include "server/rpc/control_service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/rpc/convert.h"
#include "server/rpc/grpc_status.h"

namespace tauserve {
namespace {

constexpr absl::Duration kDefaultDrain = absl::Seconds(30);
// Drains may take hours and overtake each other.
constexpr int kWaitingCalls = 8;
constexpr int kMaxQueuedCalls = 64;

grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context,
                                 const absl::Status& status = absl::OkStatus()) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

// For what waits, which a gRPC thread must not.
template <typename Work>
grpc::ServerUnaryReactor* AnswerLater(WorkerPool& workers, grpc::CallbackServerContext* context,
                                      Work work) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const absl::Status queued = workers.Run([reactor, work] {
    work();
    reactor->Finish(grpc::Status::OK);
  });
  if (!queued.ok()) reactor->Finish(ToGrpc(queued));
  return reactor;
}

}  // namespace

ControlServiceImpl::ControlServiceImpl(Engine* engine, ServerInfo info,
                                       std::function<int32_t(absl::Duration)> drain)
    : engine_(engine),
      info_(std::move(info)),
      drain_(std::move(drain)),
      waiting_(kWaitingCalls, kMaxQueuedCalls) {}

grpc::ServerUnaryReactor* ControlServiceImpl::GetServerInfo(
    grpc::CallbackServerContext* context, const v1::GetServerInfoRequest* /*request*/,
    v1::GetServerInfoResponse* response) {
  response->set_version(info_.version);
  response->set_commit(info_.commit);
  response->set_instance_id(info_.instance_id);
  *response->mutable_uptime() = ToProto(absl::Now() - info_.start);
  response->set_device(info_.device);
  for (const std::string& device : info_.compiled_devices) response->add_compiled_devices(device);
  response->set_max_running_requests(info_.engine.max_running_requests);
  response->set_max_batched_tokens(info_.engine.max_batched_tokens);
  response->set_max_waiting_requests(info_.engine.max_waiting_requests);
  return Answer(context);
}

grpc::ServerUnaryReactor* ControlServiceImpl::GetLoad(grpc::CallbackServerContext* context,
                                                      const v1::GetLoadRequest* /*request*/,
                                                      v1::GetLoadResponse* response) {
  const EngineLoad load = engine_->load();
  response->set_running_requests(load.running_requests);
  response->set_waiting_requests(load.waiting_requests);
  response->set_waiting_prompt_tokens(load.waiting_prompt_tokens);
  if (load.pages_total > 0) {
    response->set_kv_cache_usage_ratio(1 - static_cast<double>(load.pages_free) / load.pages_total);
  }
  if (load.last_step != absl::InfinitePast()) {
    *response->mutable_since_last_step() = ToProto(absl::Now() - load.last_step);
  }
  response->set_draining(load.draining);
  return Answer(context);
}

grpc::ServerUnaryReactor* ControlServiceImpl::AbortRequests(grpc::CallbackServerContext* context,
                                                            const v1::AbortRequestsRequest* request,
                                                            v1::AbortRequestsResponse* response) {
  const std::vector<std::string> ids(request->request_ids().begin(), request->request_ids().end());
  for (const std::string& id : engine_->Abort(ids)) response->add_aborted_request_ids(id);
  return Answer(context);
}

grpc::ServerUnaryReactor* ControlServiceImpl::Drain(grpc::CallbackServerContext* context,
                                                    const v1::DrainRequest* request,
                                                    v1::DrainResponse* response) {
  const absl::Duration timeout =
      request->has_timeout() ? ToAbsl(request->timeout()) : kDefaultDrain;
  if (timeout < absl::ZeroDuration()) {
    return Answer(context,
                  absl::InvalidArgumentError(absl::StrCat(
                      "timeout is ", absl::FormatDuration(timeout), ", must not be negative")));
  }
  return AnswerLater(waiting_, context, [this, timeout, response] {
    response->set_aborted_requests(drain_(timeout));
  });
}

grpc::ServerUnaryReactor* ControlServiceImpl::ClearPrefixCache(
    grpc::CallbackServerContext* context, const v1::ClearPrefixCacheRequest* /*request*/,
    v1::ClearPrefixCacheResponse* response) {
  return AnswerLater(waiting_, context,
                     [this, response] { response->set_pages_freed(engine_->ClearPrefixCache()); });
}

}  // namespace tauserve
