#include "clients/cpp/client.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>

#include <future>

#include "google/protobuf/wrappers.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace tauserve::client {
namespace {

constexpr int kReconnectMilliseconds = 250;

std::shared_ptr<grpc::ChannelCredentials> ChannelCredentialsOf(const Credentials& credentials) {
  if (credentials.tls_ca.empty()) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = credentials.tls_ca;
  options.pem_cert_chain = credentials.tls_cert;
  options.pem_private_key = credentials.tls_key;
  return grpc::SslCredentials(options);
}

// grpc.health.v1, for which Debian's gRPC installs no generated code: on the wire,
// HealthCheckRequest {string service = 1;} is a StringValue, and HealthCheckResponse {ServingStatus
// status = 1;} an Int32Value.
using HealthStub =
    grpc::TemplatedGenericStub<google::protobuf::StringValue, google::protobuf::Int32Value>;
constexpr char kHealthMethod[] = "/grpc.health.v1.Health/Check";
constexpr int32_t kServing = 1;

constexpr Client::Duration kHealthInterval(50);     // between two questions
constexpr Client::Duration kHealthPatience(2'000);  // for one answer, if the client has no timeout

}  // namespace

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address,
                                           const Credentials& credentials,
                                           grpc::ChannelArguments arguments) {
  arguments.SetMaxReceiveMessageSize(-1);
  // Never through a proxy that the environment names for the web.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // gRPC would wait for up to two minutes between tries to connect; a server that starts is to be
  // found at once.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kReconnectMilliseconds);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kReconnectMilliseconds);
  // Finds out that a server is gone while a long prefill sends nothing.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  if (!credentials.tls_server_name.empty()) {
    arguments.SetSslTargetNameOverride(credentials.tls_server_name);
  }
  return grpc::CreateCustomChannel(address, ChannelCredentialsOf(credentials), arguments);
}

void AddAuthorization(const Credentials& credentials, grpc::ClientContext& context) {
  if (!credentials.token.empty()) {
    context.AddMetadata("authorization", "Bearer " + credentials.token);
  }
}

// A call's context, known to Cancel while it lives.
class Client::Call {
 public:
  explicit Call(Client* client) : Call(client, client->timeout_) {}
  Call(Client* client, std::optional<Duration> timeout) : client_(client) {
    AddAuthorization(client->credentials_, context_);
    if (timeout) context_.set_deadline(std::chrono::system_clock::now() + *timeout);
    std::lock_guard<std::mutex> lock(client->mutex_);
    if (client->cancelled_) context_.TryCancel();
    client->calls_.insert(&context_);
  }
  ~Call() {
    std::lock_guard<std::mutex> lock(client_->mutex_);
    client_->calls_.erase(&context_);
  }
  grpc::ClientContext* context() { return &context_; }

 private:
  Client* client_;
  grpc::ClientContext context_;
};

Client::Client(const std::string& address, std::optional<Duration> timeout,
               const Credentials& credentials)
    : channel_(MakeChannel(address, credentials)),
      timeout_(timeout),
      credentials_(credentials),
      inference_(v1::InferenceService::NewStub(channel_)),
      control_(v1::ControlService::NewStub(channel_)) {}

grpc::Status Client::GenerateStream(
    const v1::GenerateStreamRequest& request,
    const std::function<void(const v1::GenerateStreamResponse&)>& on_event) {
  Call call(this);
  const auto reader = inference_->GenerateStream(call.context(), request);
  v1::GenerateStreamResponse event;
  while (reader->Read(&event)) on_event(event);
  return reader->Finish();
}

grpc::Status Client::Generate(const v1::GenerateRequest& request, v1::GenerateResponse& response) {
  Call call(this);
  return inference_->Generate(call.context(), request, &response);
}
grpc::Status Client::Tokenize(const v1::TokenizeRequest& request, v1::TokenizeResponse& response) {
  Call call(this);
  return inference_->Tokenize(call.context(), request, &response);
}
grpc::Status Client::Detokenize(const v1::DetokenizeRequest& request,
                                v1::DetokenizeResponse& response) {
  Call call(this);
  return inference_->Detokenize(call.context(), request, &response);
}
grpc::Status Client::GetModel(v1::GetModelResponse& response) {
  Call call(this);
  return inference_->GetModel(call.context(), v1::GetModelRequest(), &response);
}
grpc::Status Client::GetServerInfo(v1::GetServerInfoResponse& response) {
  Call call(this);
  return control_->GetServerInfo(call.context(), v1::GetServerInfoRequest(), &response);
}
grpc::Status Client::GetLoad(v1::GetLoadResponse& response) {
  Call call(this);
  return control_->GetLoad(call.context(), v1::GetLoadRequest(), &response);
}
grpc::Status Client::AbortRequests(const v1::AbortRequestsRequest& request,
                                   v1::AbortRequestsResponse& response) {
  Call call(this);
  return control_->AbortRequests(call.context(), request, &response);
}
grpc::Status Client::Drain(const v1::DrainRequest& request, v1::DrainResponse& response) {
  Call call(this);
  return control_->Drain(call.context(), request, &response);
}

grpc::Status Client::CheckHealth(const std::string& service, std::optional<Duration> timeout,
                                 bool& serving) {
  Call call(this, timeout);
  HealthStub stub(channel_);
  google::protobuf::StringValue request;
  request.set_value(service);
  google::protobuf::Int32Value response;
  std::promise<grpc::Status> done;
  stub.UnaryCall(call.context(), kHealthMethod, grpc::StubOptions(), &request, &response,
                 [&done](grpc::Status status) { done.set_value(std::move(status)); });
  const grpc::Status status = done.get_future().get();
  serving = status.ok() && response.value() == kServing;
  return status;
}

grpc::Status Client::CheckHealth(const std::string& service, bool& serving) {
  return CheckHealth(service, timeout_, serving);
}

grpc::Status Client::WaitUntilServing(const std::string& service, Duration wait, bool& serving) {
  const auto end = std::chrono::steady_clock::now() + wait;
  while (true) {
    const grpc::Status status = CheckHealth(service, timeout_.value_or(kHealthPatience), serving);
    if (serving || status.error_code() == grpc::StatusCode::UNIMPLEMENTED) return status;
    std::unique_lock<std::mutex> lock(mutex_);
    if (cancelled_changed_.wait_for(lock, kHealthInterval, [this] { return cancelled_; }) ||
        std::chrono::steady_clock::now() >= end) {
      return status;
    }
  }
}

bool Client::Cancel() {
  std::lock_guard<std::mutex> lock(mutex_);
  cancelled_ = true;
  cancelled_changed_.notify_all();
  for (grpc::ClientContext* context : calls_) context->TryCancel();
  return !calls_.empty();
}

bool Client::cancelled() {
  std::lock_guard<std::mutex> lock(mutex_);
  return cancelled_;
}

std::optional<Client::Duration> RetryDelayOf(const grpc::Status& status) {
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return std::nullopt;
  google::rpc::RetryInfo retry;
  for (const google::protobuf::Any& any : details.details()) {
    if (!any.UnpackTo(&retry)) continue;
    return Client::Duration(retry.retry_delay().seconds() * 1000 +
                            retry.retry_delay().nanos() / 1'000'000);
  }
  return std::nullopt;
}

}  // namespace tauserve::client
