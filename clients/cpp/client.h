// A small C++ client of a Tauserve server: blocking calls, results as the API's own messages. One object may be used
// from several threads; Cancel ends whatever call is under way.
#ifndef TAUSERVE_CLIENTS_CPP_CLIENT_H_
#define TAUSERVE_CLIENTS_CPP_CLIENT_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>

#include "tauserve/inference/v1/control.grpc.pb.h"
#include "tauserve/inference/v1/inference.grpc.pb.h"

namespace tauserve::client {

namespace v1 = tauserve::inference::v1;

class Client {
 public:
  // Connects lazily. `timeout` is each call's deadline; none if unset.
  explicit Client(const std::string& address,
                  std::optional<std::chrono::milliseconds> timeout = std::nullopt);

  // Calls `on_event` for each message of the stream, in order, on this thread.
  grpc::Status GenerateStream(
      const v1::GenerateStreamRequest& request,
      const std::function<void(const v1::GenerateStreamResponse&)>& on_event);
  grpc::Status Generate(const v1::GenerateRequest& request, v1::GenerateResponse& response);
  grpc::Status Tokenize(const v1::TokenizeRequest& request, v1::TokenizeResponse& response);
  grpc::Status Detokenize(const v1::DetokenizeRequest& request, v1::DetokenizeResponse& response);
  grpc::Status GetModel(v1::GetModelResponse& response);

  // For a client of a control address.
  grpc::Status GetServerInfo(v1::GetServerInfoResponse& response);
  grpc::Status GetLoad(v1::GetLoadResponse& response);
  grpc::Status AbortRequests(const v1::AbortRequestsRequest& request,
                             v1::AbortRequestsResponse& response);
  grpc::Status Drain(const v1::DrainRequest& request, v1::DrainResponse& response);

  // Whether grpc.health.v1 says SERVING for `service` ("" for the process itself).
  grpc::Status CheckHealth(const std::string& service, bool& serving);

  // Ends the calls under way with CANCELLED. From any thread.
  void Cancel();

 private:
  class Call;

  std::shared_ptr<grpc::Channel> channel_;
  std::optional<std::chrono::milliseconds> timeout_;
  std::unique_ptr<v1::InferenceService::Stub> inference_;
  std::unique_ptr<v1::ControlService::Stub> control_;
  std::mutex mutex_;
  std::set<grpc::ClientContext*> calls_;  // under way
};

// The delay that the server asks for before another try, from a RESOURCE_EXHAUSTED status.
std::optional<std::chrono::milliseconds> RetryDelayOf(const grpc::Status& status);

}  // namespace tauserve::client

#endif  // TAUSERVE_CLIENTS_CPP_CLIENT_H_
