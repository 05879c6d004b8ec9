// The services over real gRPC in one process, on the real engine and a fake model that can be held and made to fail.
#include "server/rpc/rpc_server.h"

#include <gmock/gmock.h>
#include <google/protobuf/wrappers.pb.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>
#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "server/observability/logs.h"
#include "tests/server/engine/fake_model.h"

namespace tauserve {
namespace {

using testing::HasSubstr;

class RpcServerTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(InitializeLogs("off").ok());
    EngineOptions options;
    options.max_batched_tokens = 64;
    options.max_running_requests = 2;
    options.max_waiting_requests = 2;
    engine_ = std::make_unique<Engine>(options, &model_, &tokenizer_, &metrics_);
    admission_ = std::make_unique<Admission>(&model_.info(), &tokenizer_, ChatTemplate(),
                                             SamplingParams(), 4000, &constraints_);
    ServerInfo info;
    info.engine = options;
    RpcOptions rpc_options;
    rpc_options.listen = rpc_options.control_listen = "127.0.0.1:0";
    rpc_options.max_message_bytes = 1 << 20;
    rpc_options.stuck_after = stuck_after_;
    auto rpc = RpcServer::Start(rpc_options, {engine_.get(), admission_.get(), &metrics_},
                                std::move(info));
    ASSERT_TRUE(rpc.ok()) << rpc.status();
    rpc_ = *std::move(rpc);
    stub_ = v1::InferenceService::NewStub(
        grpc::CreateChannel(rpc_->address(), grpc::InsecureChannelCredentials()));
    control_ = v1::ControlService::NewStub(
        grpc::CreateChannel(rpc_->control_address(), grpc::InsecureChannelCredentials()));
  }
  void TearDown() override {
    model_.Release();
    rpc_->Drain(absl::ZeroDuration());
    rpc_->Shutdown(absl::Seconds(1));
  }

  static v1::GenerationInput Input(int max_new_tokens, const std::string& id = "") {
    v1::GenerationInput input;
    input.set_request_id(id);
    for (uint32_t token = 1; token <= 100; token++) input.mutable_token_ids()->add_ids(token);
    input.mutable_sampling()->set_temperature(0);
    input.mutable_stopping()->set_max_new_tokens(max_new_tokens);
    input.mutable_response()->set_token_ids(true);
    return input;
  }
  grpc::Status Generate(const v1::GenerationInput& input, v1::GenerateResponse* response) {
    grpc::ClientContext context;
    v1::GenerateRequest request;
    *request.mutable_input() = input;
    return stub_->Generate(&context, request, response);
  }
  std::unique_ptr<grpc::ClientReader<v1::GenerateStreamResponse>> Stream(
      grpc::ClientContext* context, const v1::GenerationInput& input) {
    v1::GenerateStreamRequest request;
    *request.mutable_input() = input;
    return stub_->GenerateStream(context, request);
  }
  // grpc.health.v1.Health.Check; messages as clients/cpp/client.cc writes them.
  bool Serving(const std::string& service) {
    grpc::TemplatedGenericStub<google::protobuf::StringValue, google::protobuf::Int32Value> stub(
        grpc::CreateChannel(rpc_->address(), grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    google::protobuf::StringValue request;
    request.set_value(service);
    google::protobuf::Int32Value response;
    std::promise<grpc::Status> done;
    stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", grpc::StubOptions(), &request,
                   &response, [&done](grpc::Status status) { done.set_value(std::move(status)); });
    EXPECT_TRUE(done.get_future().get().ok());
    return response.value() == 1;
  }
  template <typename Condition>
  void WaitUntil(Condition condition) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (!condition()) {
      ASSERT_LT(std::chrono::steady_clock::now(), end);
      std::this_thread::yield();
    }
  }
  void WaitUntilIdle() {
    WaitUntil([this] {
      const EngineLoad load = engine_->load();
      return load.running_requests == 0 && load.waiting_requests == 0;
    });
  }

  absl::Duration stuck_after_ = absl::Minutes(1);
  FakeModel model_{200};
  FakeTokenizer tokenizer_;
  Metrics metrics_{"fake"};
  std::unique_ptr<Engine> engine_;
  ConstraintCache constraints_{&tokenizer_, kFakeVocab, 1 << 20, &metrics_};
  std::unique_ptr<Admission> admission_;
  std::unique_ptr<RpcServer> rpc_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
  std::unique_ptr<v1::ControlService::Stub> control_;
};

TEST_F(RpcServerTest, UnaryAndStreamGiveTheSame) {
  v1::GenerateResponse response;
  ASSERT_TRUE(Generate(Input(20), &response).ok());
  const auto& ids = response.candidates(0).token_ids();
  EXPECT_EQ(ids.size(), 20);

  grpc::ClientContext context;
  auto reader = Stream(&context, Input(20, "streamed"));
  std::vector<uint32_t> streamed;
  std::vector<v1::GenerateStreamResponse::EventCase> order;
  v1::GenerateStreamResponse event;
  while (reader->Read(&event)) {
    EXPECT_EQ(event.request_id(), order.empty() ? "streamed" : "");
    if (order.empty() || order.back() != event.event_case()) order.push_back(event.event_case());
    for (uint32_t id : event.delta().token_ids()) streamed.push_back(id);
  }
  ASSERT_TRUE(reader->Finish().ok());
  EXPECT_THAT(streamed, testing::ElementsAreArray(ids));
  using E = v1::GenerateStreamResponse;
  EXPECT_THAT(order, testing::ElementsAre(E::kStarted, E::kPrefillProgress, E::kDelta,
                                          E::kCandidateFinished, E::kCompleted));
}

TEST_F(RpcServerTest, InternalErrorNamesTheRequest) {
  model_.on_logits = [](int32_t, int32_t position, absl::Span<float> logits) {
    if (position == 110) logits[7] = std::nanf("");
  };
  v1::GenerateResponse response;
  const grpc::Status status = Generate(Input(50, "unlucky"), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_THAT(status.error_message(), HasSubstr("unlucky"));

  grpc::ClientContext context;
  auto reader = Stream(&context, Input(50, "unlucky too"));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);  // a space
  grpc::ClientContext again;
  reader = Stream(&again, Input(50, "unlucky-too"));
  int tokens = 0;
  v1::GenerateStreamResponse event;
  while (reader->Read(&event)) tokens += event.delta().num_tokens();
  const grpc::Status end = reader->Finish();
  EXPECT_EQ(end.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_THAT(end.error_message(), HasSubstr("unlucky-too"));
  EXPECT_GT(tokens, 5);  // what was right arrived
}

TEST_F(RpcServerTest, CancelWhileTheEngineIsBusy) {
  model_.Hold();
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateStreamResponse>>> readers;
  for (int i = 0; i < 4; i++) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(Stream(contexts.back().get(), Input(1000)));
    // In turn, so that two run and two wait.
    WaitUntil([&] {
      const EngineLoad load = engine_->load();
      return load.running_requests + load.waiting_requests > i || i >= 2;
    });
  }
  model_.WaitUntilHeld();
  for (auto& context : contexts) context->TryCancel();
  for (auto& reader : readers) {
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  model_.Release();
  WaitUntilIdle();
  EXPECT_EQ(engine_->load().pages_free, 200);
}

TEST_F(RpcServerTest, ManyClientsComeAndGo) {
  std::vector<std::thread> clients;
  std::atomic<int> ended = 0;
  for (int t = 0; t < 6; t++) {
    clients.emplace_back([this, t, &ended] {
      for (int i = 0; i < 25; i++) {
        grpc::ClientContext context;
        auto reader = Stream(&context, Input(1 + (7 * i + t) % 40));
        v1::GenerateStreamResponse event;
        int read = 0;
        while (reader->Read(&event)) {
          if ((i + t) % 3 == 0 && ++read > i % 5) context.TryCancel();
        }
        const grpc::StatusCode code = reader->Finish().error_code();
        EXPECT_TRUE(code == grpc::StatusCode::OK || code == grpc::StatusCode::CANCELLED ||
                    code == grpc::StatusCode::RESOURCE_EXHAUSTED)
            << code;
        ended++;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(ended, 150);
  WaitUntilIdle();
  EXPECT_EQ(engine_->load().pages_free, 200);
}

TEST_F(RpcServerTest, ShutdownEndsCallsThatNobodyReads) {
  grpc::ClientContext context;
  auto reader = Stream(&context, Input(3000));
  v1::GenerateStreamResponse event;
  ASSERT_TRUE(reader->Read(&event));
  rpc_->Drain(absl::ZeroDuration());
  rpc_->Shutdown(absl::Milliseconds(100));
  while (reader->Read(&event)) {
  }
  reader->Finish();
  EXPECT_EQ(engine_->load().running_requests, 0);
}

TEST_F(RpcServerTest, DrainAnswersWhenAllHaveEnded) {
  model_.Hold();
  grpc::ClientContext context;
  auto reader = Stream(&context, Input(10));
  model_.WaitUntilHeld();
  std::thread drain([this] {
    grpc::ClientContext drain_context;
    v1::DrainResponse response;
    EXPECT_TRUE(control_->Drain(&drain_context, v1::DrainRequest(), &response).ok());
    EXPECT_EQ(response.aborted_requests(), 0);
  });
  WaitUntil([this] { return engine_->load().draining; });
  v1::GenerateResponse refused;
  EXPECT_EQ(Generate(Input(1), &refused).error_code(), grpc::StatusCode::UNAVAILABLE);
  // The control service answers meanwhile.
  grpc::ClientContext load_context;
  v1::GetLoadResponse load;
  ASSERT_TRUE(control_->GetLoad(&load_context, v1::GetLoadRequest(), &load).ok());
  EXPECT_TRUE(load.draining());
  model_.Release();
  v1::GenerateStreamResponse event;
  while (reader->Read(&event)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  drain.join();
}

class StuckTest : public RpcServerTest {
 protected:
  StuckTest() { stuck_after_ = absl::Milliseconds(50); }
  double StuckGauge() const {
    for (const auto& source : metrics_.collectables()) {
      for (const prometheus::MetricFamily& family : source.lock()->Collect()) {
        if (family.name == "tauserve_engine_stuck") return family.metric.front().gauge.value;
      }
    }
    return -1;
  }
  static constexpr char kService[] = "tauserve.inference.v1.InferenceService";
};

TEST_F(StuckTest, HealthFollowsTheEngineAndReadinessDoesNot) {
  rpc_->SetReady(true);
  EXPECT_TRUE(Serving(""));
  model_.Hold();
  grpc::ClientContext context;
  auto reader = Stream(&context, Input(10));
  WaitUntil([this] { return !Serving(""); });
  EXPECT_TRUE(rpc_->stuck());
  EXPECT_EQ(StuckGauge(), 1);
  EXPECT_TRUE(Serving(kService));
  model_.Release();
  WaitUntil([this] { return Serving(""); });
  EXPECT_FALSE(rpc_->stuck());
  EXPECT_EQ(StuckGauge(), 0);
  v1::GenerateStreamResponse event;
  while (reader->Read(&event)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(StuckTest, AFailedDeviceStaysUnhealthyWhateverTheEngineDoes) {
  rpc_->SetReady(true);
  model_.Hold();
  grpc::ClientContext context;
  auto reader = Stream(&context, Input(10));
  WaitUntil([this] { return rpc_->stuck(); });
  rpc_->SetFailed();
  model_.Release();
  WaitUntil([this] { return !rpc_->stuck(); });
  EXPECT_FALSE(Serving(""));
  rpc_->SetReady(true);
  EXPECT_FALSE(Serving(kService));
  v1::GenerateStreamResponse event;
  while (reader->Read(&event)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(RpcServerTest, AStreamThatNobodyReadsHoldsNobodyAndEnds) {
  v1::GenerationInput unread = Input(3800, "unread");
  unread.mutable_response()->set_top_logprobs(20);  // a megabyte in all: more than windows take
  grpc::ClientContext context;
  auto silent = Stream(&context, unread);
  WaitUntil([this] { return engine_->load().running_requests == 1; });
  // Others get all of theirs while it runs, or after: it never waits for its reader.
  for (int i = 0; i < 3; i++) {
    v1::GenerateResponse response;
    EXPECT_TRUE(Generate(Input(20), &response).ok());
    EXPECT_EQ(response.usage().completion_tokens(), 20);
  }
  WaitUntilIdle();
  EXPECT_EQ(engine_->load().pages_free, 200);
  // What was not fetched waits in few, large messages, and nothing is lost.
  int tokens = 0, deltas = 0;
  v1::GenerateStreamResponse event;
  while (silent->Read(&event)) {
    if (event.event_case() != v1::GenerateStreamResponse::kDelta) continue;
    deltas++;
    tokens += event.delta().num_tokens();
  }
  EXPECT_TRUE(silent->Finish().ok());
  EXPECT_EQ(tokens, 3800);
  EXPECT_LT(deltas, tokens);  // how many got through before depends on windows, which grow
}

TEST_F(RpcServerTest, MessageOverTheLimitIsRefusedAndTheNextServed) {
  v1::GenerationInput large;
  large.set_text(std::string(2 << 20, 'x'));
  v1::GenerateResponse response;
  const grpc::Status status = Generate(large, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("1048576"));
  EXPECT_TRUE(Generate(Input(2), &response).ok());
}

TEST_F(RpcServerTest, PortInUse) {
  const auto second = RpcServer::Start({rpc_->address(), "127.0.0.1:0", 1 << 20},
                                       {engine_.get(), admission_.get(), &metrics_}, {});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(rpc_->address()));
}

}  // namespace
}  // namespace tauserve
