#include "clients/cpp/client.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/byte_buffer.h>

#include <future>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace tauserve::client {
namespace {

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  // Finds out that a server is gone while a long prefill sends nothing.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

// grpc.health.v1.HealthCheckRequest {string service = 1}. Debian's gRPC has no generated code for it.
grpc::ByteBuffer HealthRequest(const std::string& service) {
  std::string bytes;
  if (!service.empty()) {
    bytes += '\x0a';
    bytes += static_cast<char>(service.size());  // names are shorter than 128 bytes
    bytes += service;
  }
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

// HealthCheckResponse {ServingStatus status = 1}, SERVING = 1.
bool IsServing(const grpc::ByteBuffer& response) {
  std::vector<grpc::Slice> slices;
  if (!response.Dump(&slices).ok()) return false;
  std::string bytes;
  for (const grpc::Slice& s : slices) {
    bytes.append(reinterpret_cast<const char*>(s.begin()), s.size());
  }
  return bytes == std::string("\x08\x01");
}

}  // namespace

// A call's context, known to Cancel while it lives.
class Client::Call {
 public:
  explicit Call(Client* client) : client_(client) {
    if (client->timeout_) {
      context_.set_deadline(std::chrono::system_clock::now() + *client->timeout_);
    }
    std::lock_guard<std::mutex> lock(client->mutex_);
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

Client::Client(const std::string& address, std::optional<std::chrono::milliseconds> timeout)
    : channel_(MakeChannel(address)),
      timeout_(timeout),
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

grpc::Status Client::CheckHealth(const std::string& service, bool& serving) {
  Call call(this);
  grpc::GenericStub stub(channel_);
  const grpc::ByteBuffer request = HealthRequest(service);
  grpc::ByteBuffer response;
  std::promise<grpc::Status> done;
  stub.UnaryCall(call.context(), "/grpc.health.v1.Health/Check", grpc::StubOptions(), &request,
                 &response, [&done](grpc::Status status) { done.set_value(std::move(status)); });
  const grpc::Status status = done.get_future().get();
  serving = status.ok() && IsServing(response);
  return status;
}

void Client::Cancel() {
  std::lock_guard<std::mutex> lock(mutex_);
  for (grpc::ClientContext* context : calls_) context->TryCancel();
}

std::optional<std::chrono::milliseconds> RetryDelayOf(const grpc::Status& status) {
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return std::nullopt;
  google::rpc::RetryInfo retry;
  for (const google::protobuf::Any& any : details.details()) {
    if (!any.UnpackTo(&retry)) continue;
    return std::chrono::milliseconds(retry.retry_delay().seconds() * 1000 +
                                     retry.retry_delay().nanos() / 1'000'000);
  }
  return std::nullopt;
}

}  // namespace tauserve::client
