#include "tests/clients/cpp/fake_server.h"

#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/support/server_callback.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "kernels/check.h"

namespace tauserve::client {

// Plays the script's events one after another. Deletes itself when the call is over.
class FakeServer::Stream : public grpc::ServerWriteReactor<v1::GenerateStreamResponse> {
 public:
  explicit Stream(FakeServer* server) : server_(server) { Next(); }
  // Refuses.
  Stream(FakeServer* server, const grpc::Status& status) : server_(server), finished_(true) {
    Finish(status);
  }

  void OnWriteDone(bool ok) override {
    if (ok) Next();
  }
  void OnCancel() override {
    std::lock_guard<std::mutex> lock(finish_mutex_);
    if (finished_) return;
    finished_ = true;
    Finish(grpc::Status(grpc::StatusCode::CANCELLED, "cancelled"));
  }
  void OnDone() override {
    {
      std::lock_guard<std::mutex> lock(server_->mutex_);
      server_->cancelled_ = true;
      server_->cancelled_changed_.notify_all();
    }
    delete this;
  }

 private:
  void Next() {
    const Script& script = server_->script_;
    if (next_ < script.events.size()) {
      StartWrite(&script.events[next_++]);
      return;
    }
    if (script.stay_open) return;
    std::lock_guard<std::mutex> lock(finish_mutex_);
    if (finished_) return;
    finished_ = true;
    Finish(script.status);
  }

  FakeServer* server_;
  size_t next_ = 0;
  std::mutex finish_mutex_;
  bool finished_ = false;
};

class FakeServer::Inference : public v1::InferenceService::CallbackService {
 public:
  explicit Inference(FakeServer* server) : server_(server) {}

  grpc::ServerWriteReactor<v1::GenerateStreamResponse>* GenerateStream(
      grpc::CallbackServerContext*, const v1::GenerateStreamRequest* request) override {
    {
      std::lock_guard<std::mutex> lock(server_->mutex_);
      server_->generate_request_ = *request;
      server_->generate_count_++;
      if (server_->script_.refuse_first >= server_->generate_count_) {
        return new Stream(server_, QueueIsFull(0.01));
      }
    }
    return new Stream(server_);
  }

  grpc::ServerUnaryReactor* Generate(grpc::CallbackServerContext* context,
                                     const v1::GenerateRequest* request,
                                     v1::GenerateResponse* response) override {
    response->add_candidates()->set_text("echo " + request->input().text());
    return Answer(context);
  }
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override {
    for (const char c : request->text()) {
      response->add_token_ids(static_cast<unsigned char>(c));
      response->add_token_strings(std::string(1, c));
    }
    response->set_count(request->text().size());
    return Answer(context);
  }
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override {
    for (const uint32_t id : request->token_ids())
      *response->mutable_text() += static_cast<char>(id);
    return Answer(context);
  }
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest*,
                                     v1::GetModelResponse* response) override {
    response->set_model("fake");
    response->set_entmax_alpha_min(1.5);
    response->set_entmax_alpha_max(2);
    response->add_eos_token_ids(1);
    response->set_vocab_size(256);
    response->set_max_context_tokens(4096);
    return Answer(context);
  }

 private:
  grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(server_->script_.status);
    return reactor;
  }
  FakeServer* server_;
};

class FakeServer::Control : public v1::ControlService::Service {
 public:
  explicit Control(FakeServer* server) : server_(server) {}

  grpc::Status GetServerInfo(grpc::ServerContext*, const v1::GetServerInfoRequest*,
                             v1::GetServerInfoResponse* response) override {
    response->set_version("9.8.7");
    response->set_device("fake (0 threads)");
    response->mutable_uptime()->set_nanos(250'000'000);
    return server_->script_.status;
  }
  grpc::Status GetLoad(grpc::ServerContext*, const v1::GetLoadRequest*,
                       v1::GetLoadResponse* response) override {
    response->set_running_requests(3);
    response->set_kv_cache_usage_ratio(0.5);
    return server_->script_.status;
  }
  grpc::Status AbortRequests(grpc::ServerContext*, const v1::AbortRequestsRequest* request,
                             v1::AbortRequestsResponse* response) override {
    std::lock_guard<std::mutex> lock(server_->mutex_);
    server_->abort_request_ = *request;
    *response->mutable_aborted_request_ids() = request->request_ids();
    return server_->script_.status;
  }
  grpc::Status Drain(grpc::ServerContext*, const v1::DrainRequest* request,
                     v1::DrainResponse* response) override {
    std::lock_guard<std::mutex> lock(server_->mutex_);
    server_->drain_request_ = *request;
    response->set_aborted_requests(2);
    return server_->script_.status;
  }

 private:
  FakeServer* server_;
};

FakeServer::FakeServer()
    : inference_(std::make_unique<Inference>(this)), control_(std::make_unique<Control>(this)) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(inference_.get());
  builder.RegisterService(control_.get());
  server_ = builder.BuildAndStart();
  TAUSERVE_CHECK(server_ != nullptr && port != 0, "the fake server listens");
  address_ = "127.0.0.1:" + std::to_string(port);
  SetReady(true);
}

FakeServer::~FakeServer() {
  // What is still open is cut off at once.
  Shutdown();
  server_->Wait();
}

void FakeServer::Shutdown() { server_->Shutdown(std::chrono::system_clock::now()); }

void FakeServer::SetReady(bool ready) {
  server_->GetHealthCheckService()->SetServingStatus(v1::InferenceService::service_full_name(),
                                                     ready);
}

v1::GenerateStreamRequest FakeServer::generate_request() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return generate_request_;
}
uint64_t FakeServer::generate_count() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return generate_count_;
}
v1::AbortRequestsRequest FakeServer::abort_request() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return abort_request_;
}
v1::DrainRequest FakeServer::drain_request() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return drain_request_;
}

void FakeServer::WaitForCancel() {
  std::unique_lock<std::mutex> lock(mutex_);
  cancelled_changed_.wait(lock, [this] { return cancelled_; });
}

v1::GenerateStreamResponse Started(uint32_t prompt_tokens, uint32_t cached_tokens) {
  v1::GenerateStreamResponse event;
  event.set_request_id("r1");
  event.mutable_started()->set_prompt_tokens(prompt_tokens);
  event.mutable_started()->set_cached_tokens(cached_tokens);
  return event;
}

v1::GenerateStreamResponse Progress(uint32_t processed, uint32_t total) {
  v1::GenerateStreamResponse event;
  event.mutable_prefill_progress()->set_processed_tokens(processed);
  event.mutable_prefill_progress()->set_total_tokens(total);
  return event;
}

v1::GenerateStreamResponse Delta(const std::string& text, uint32_t num_tokens) {
  v1::GenerateStreamResponse event;
  event.mutable_delta()->set_text(text);
  event.mutable_delta()->set_num_tokens(num_tokens);
  return event;
}

v1::GenerateStreamResponse Finished(v1::FinishReason reason) {
  v1::GenerateStreamResponse event;
  event.mutable_candidate_finished()->set_finish_reason(reason);
  return event;
}

v1::GenerateStreamResponse Completed(uint32_t prompt_tokens, uint32_t completion_tokens) {
  v1::GenerateStreamResponse event;
  v1::StreamCompleted& completed = *event.mutable_completed();
  completed.mutable_usage()->set_prompt_tokens(prompt_tokens);
  completed.mutable_usage()->set_completion_tokens(completion_tokens);
  completed.mutable_timings()->mutable_prefill()->set_seconds(2);
  completed.mutable_timings()->mutable_decode()->set_nanos(500'000'000);
  completed.mutable_attention()->set_keys_considered(1000);
  completed.mutable_attention()->set_mean_support_tokens(12.5);
  completed.mutable_attention()->set_prefill_blocks_considered(100);
  completed.mutable_attention()->set_prefill_blocks_scored(60);
  completed.mutable_attention()->set_prefill_blocks_attended(25);
  return event;
}

std::vector<v1::GenerateStreamResponse> WholeStream() {
  return {Started(100),
          Progress(64, 100),
          Delta("The answer", 2),
          Delta(" is 42", 3),
          Finished(v1::FINISH_REASON_EOS_TOKEN),
          Completed(100, 6)};
}

grpc::Status QueueIsFull(double retry_seconds) {
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(static_cast<int64_t>(retry_seconds));
  retry.mutable_retry_delay()->set_nanos(
      static_cast<int32_t>((retry_seconds - static_cast<int64_t>(retry_seconds)) * 1e9));
  google::rpc::Status details;
  details.set_code(grpc::StatusCode::RESOURCE_EXHAUSTED);
  details.add_details()->PackFrom(retry);
  return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the queue is full",
                      details.SerializeAsString());
}

}  // namespace tauserve::client
