// A small C++ client of a Tauserve server: blocking calls that take and return the API's own
// messages.
//
//   tauserve::client::Client client("127.0.0.1:50051");
//   tauserve::client::v1::GenerateStreamRequest request;
//   request.mutable_input()->set_text("Once upon a time");
//   const grpc::Status status = client.GenerateStream(
//       request, [](const auto& event) { std::cout << event.delta().text() << std::flush; });
//   if (!status.ok()) std::cerr << status.error_message();
//
// One object may be used from several threads at once.
#ifndef TAUSERVE_CLIENTS_CPP_CLIENT_H_
#define TAUSERVE_CLIENTS_CPP_CLIENT_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/channel_arguments.h>
#include <grpcpp/support/status.h>

#include <chrono>
#include <condition_variable>
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

// Who the client is, and which server it believes: contents of files, not their names.
struct Credentials {
  std::string tls_ca;           // PEM, authorities of the server's certificate; empty: no TLS
  std::string tls_cert;         // PEM, the client's certificate, if the server asks for one
  std::string tls_key;          // PEM, its key
  std::string tls_server_name;  // in the server's certificate, if it is not the address's host
  std::string token;            // sent with each call; empty: none
};

// For programs that make the calls themselves, with gRPC's callbacks: what a Client connects with,
// and what it sends with each call. `arguments` are the caller's own, besides those of a Client.
std::shared_ptr<grpc::Channel> MakeChannel(
    const std::string& address, const Credentials& credentials,
    grpc::ChannelArguments arguments = grpc::ChannelArguments());
void AddAuthorization(const Credentials& credentials, grpc::ClientContext& context);

class Client {
 public:
  using Duration = std::chrono::milliseconds;

  // Connects with the first call. `timeout` is each call's deadline; none if unset.
  explicit Client(const std::string& address, std::optional<Duration> timeout = std::nullopt,
                  const Credentials& credentials = Credentials());

  // Calls `on_event` for each message of the stream, in order, on this thread. The server goes on
  // as fast as `on_event` lets it. After a status other than OK what was delivered stays valid, but
  // is not all.
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
  // Asks until `service` is SERVING or `wait` is over, at least once; each question has the
  // client's timeout, or two seconds. Returns the last answer. Ends early if the server knows no
  // health checks, or on Cancel.
  grpc::Status WaitUntilServing(const std::string& service, Duration wait, bool& serving);

  // Ends the calls under way with CANCELLED, and each later call as well. From any thread. Returns
  // whether a call was under way.
  bool Cancel();
  bool cancelled();  // by Cancel

 private:
  class Call;

  grpc::Status CheckHealth(const std::string& service, std::optional<Duration> timeout,
                           bool& serving);

  std::shared_ptr<grpc::Channel> channel_;
  std::optional<Duration> timeout_;
  Credentials credentials_;
  std::unique_ptr<v1::InferenceService::Stub> inference_;
  std::unique_ptr<v1::ControlService::Stub> control_;
  std::mutex mutex_;
  std::condition_variable cancelled_changed_;
  bool cancelled_ = false;
  std::set<grpc::ClientContext*> calls_;  // under way
};

// The delay that the server asks for before another try, from the details of a RESOURCE_EXHAUSTED
// status.
std::optional<Client::Duration> RetryDelayOf(const grpc::Status& status);

}  // namespace tauserve::client

#endif  // TAUSERVE_CLIENTS_CPP_CLIENT_H_
