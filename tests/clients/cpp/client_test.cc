// The C++ client library against a server that speaks the real API.
#include "clients/cpp/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "tests/clients/cpp/fake_server.h"

namespace tauserve::client {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Event = v1::GenerateStreamResponse;

constexpr char kService[] = "tauserve.inference.v1.InferenceService";
// A port that nothing listens on.
constexpr char kNobody[] = "127.0.0.1:1";
constexpr Client::Duration kLong(60'000);

class ClientTest : public testing::Test {
 protected:
  FakeServer server_;
  Client client_{server_.address()};
};

TEST_F(ClientTest, DeliversEventsInOrder) {
  server_.script().events = WholeStream();
  v1::GenerateStreamRequest request;
  request.mutable_input()->set_text("what?");
  std::vector<Event::EventCase> cases;
  std::string text;
  const grpc::Status status = client_.GenerateStream(request, [&](const Event& event) {
    cases.push_back(event.event_case());
    text += event.delta().text();
  });
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_THAT(cases, ElementsAre(Event::kStarted, Event::kPrefillProgress, Event::kDelta,
                                 Event::kDelta, Event::kCandidateFinished, Event::kCompleted));
  EXPECT_EQ(text, "The answer is 42");
  EXPECT_EQ(server_.generate_request().input().text(), "what?");
}

TEST_F(ClientTest, ReturnsTheStatusAfterWhatCameBeforeIt) {
  server_.script().events = {Started(5), Delta("half")};
  server_.script().status = grpc::Status(grpc::StatusCode::INTERNAL, "broke");
  std::string text;
  const grpc::Status status = client_.GenerateStream(
      v1::GenerateStreamRequest(), [&](const Event& event) { text += event.delta().text(); });
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(status.error_message(), "broke");
  EXPECT_EQ(text, "half");
}

TEST_F(ClientTest, CancelEndsTheStreamOnBothSides) {
  server_.script().events = {Started(5), Delta("one")};
  server_.script().stay_open = true;
  int events = 0;
  const grpc::Status status =
      client_.GenerateStream(v1::GenerateStreamRequest(), [&](const Event&) {
        // From another thread, as a signal's would be.
        if (++events == 2) std::thread([this] { EXPECT_TRUE(client_.Cancel()); }).join();
      });
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(events, 2);
  server_.WaitForCancel();
}

TEST_F(ClientTest, CancelEndsLaterCallsToo) {
  EXPECT_FALSE(client_.Cancel()) << "nothing was under way";
  v1::GetModelResponse response;
  EXPECT_EQ(client_.GetModel(response).error_code(), grpc::StatusCode::CANCELLED);
  bool serving = true;
  EXPECT_EQ(client_.WaitUntilServing(kService, kLong, serving).error_code(),
            grpc::StatusCode::CANCELLED);
  EXPECT_FALSE(serving);
}

TEST_F(ClientTest, TimeoutIsADeadline) {
  server_.script().events = {Started(5)};
  server_.script().stay_open = true;
  Client hasty(server_.address(), Client::Duration(20));
  const grpc::Status status =
      hasty.GenerateStream(v1::GenerateStreamRequest(), [](const Event&) {});
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(ClientTest, UnaryCalls) {
  v1::GenerateRequest request;
  request.mutable_input()->set_text("hi");
  v1::GenerateResponse response;
  ASSERT_TRUE(client_.Generate(request, response).ok());
  EXPECT_EQ(response.candidates(0).text(), "echo hi");
  v1::GetModelResponse model;
  ASSERT_TRUE(client_.GetModel(model).ok());
  EXPECT_EQ(model.model(), "fake");
  v1::GetLoadResponse load;
  ASSERT_TRUE(client_.GetLoad(load).ok());
  EXPECT_EQ(load.running_requests(), 3);
  server_.script().status = grpc::Status(grpc::StatusCode::NOT_FOUND, "no model 'x'");
  EXPECT_EQ(client_.GetModel(model).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(ClientTest, HealthOfAServiceAndOfTheProcess) {
  bool serving = false;
  EXPECT_TRUE(client_.CheckHealth(kService, serving).ok());
  EXPECT_TRUE(serving);
  server_.SetReady(false);
  EXPECT_TRUE(client_.CheckHealth(kService, serving).ok());
  EXPECT_FALSE(serving);
  EXPECT_TRUE(client_.CheckHealth("", serving).ok());
  EXPECT_TRUE(serving) << "the process lives";
  // Longer than one byte can say.
  EXPECT_EQ(client_.CheckHealth(std::string(200, 's'), serving).error_code(),
            grpc::StatusCode::NOT_FOUND);
  EXPECT_FALSE(serving);
}

TEST_F(ClientTest, WaitsUntilServing) {
  server_.SetReady(false);
  bool serving = true;
  EXPECT_TRUE(client_.WaitUntilServing(kService, Client::Duration(0), serving).ok());
  EXPECT_FALSE(serving);
  std::thread later([this] { server_.SetReady(true); });
  EXPECT_TRUE(client_.WaitUntilServing(kService, kLong, serving).ok());
  EXPECT_TRUE(serving);
  later.join();
}

TEST(ClientWithoutServerTest, IsUnavailable) {
  Client client(kNobody);
  v1::GetModelResponse response;
  EXPECT_EQ(client.GetModel(response).error_code(), grpc::StatusCode::UNAVAILABLE);
  bool serving = true;
  EXPECT_EQ(client.WaitUntilServing(kService, Client::Duration(1), serving).error_code(),
            grpc::StatusCode::UNAVAILABLE);
  EXPECT_FALSE(serving);
}

TEST(ClientWithoutServerTest, CancelEndsAWait) {
  Client client(kNobody);
  std::thread waiting([&client] {
    bool serving = true;
    EXPECT_FALSE(client.WaitUntilServing(kService, kLong, serving).ok());
    EXPECT_FALSE(serving);
  });
  client.Cancel();
  waiting.join();
}

TEST(RetryDelayTest, ReadsTheStatusDetails) {
  EXPECT_EQ(RetryDelayOf(QueueIsFull(1.25)), Client::Duration(1250));
  EXPECT_EQ(RetryDelayOf(grpc::Status(grpc::StatusCode::INTERNAL, "x")), std::nullopt);
  EXPECT_EQ(RetryDelayOf(grpc::Status(grpc::StatusCode::INTERNAL, "x", "no message")),
            std::nullopt);
}

}  // namespace
}  // namespace tauserve::client
