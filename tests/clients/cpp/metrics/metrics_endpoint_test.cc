#include "clients/cpp/metrics/metrics_endpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace tauserve::client {
namespace {

using testing::HasSubstr;

class MetricsEndpointTest : public testing::Test {
 protected:
  MetricsEndpointTest() {
    server_.Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
      response.status = status_;
      response.set_content(body_, "text/plain");
    });
    port_ = server_.bind_to_any_port("127.0.0.1");
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    while (!server_.is_running()) std::this_thread::yield();
  }
  ~MetricsEndpointTest() override {
    server_.stop();
    thread_.join();
  }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }
  absl::StatusOr<Samples> Scrape() {
    return MetricsEndpoint::Create(address(), absl::Seconds(60))->Scrape();
  }
  std::string Failure() { return std::string(Scrape().status().message()); }

  int status_ = 200;
  std::string body_ = "tauserve_build_info{version=\"1\"} 1\n";
  httplib::Server server_;
  int port_;
  std::thread thread_;
};

TEST_F(MetricsEndpointTest, ReadsTheSamples) {
  const absl::StatusOr<Samples> samples = Scrape();
  ASSERT_TRUE(samples.ok()) << samples.status();
  EXPECT_EQ(samples->at({"tauserve_build_info", {{"version", "1"}}}), 1);
}

TEST_F(MetricsEndpointTest, SaysWhatIsWrongWithTheAnswer) {
  const std::string url = absl::StrCat("http://", address(), "/metrics");
  body_ = "node_load1 5\ntauserve_build_infos 1\n";
  EXPECT_EQ(Failure(), url + ": no tauserve_build_info: not a Tauserve server");
  body_ = "<!doctype html>\n";
  EXPECT_EQ(Failure(), url + ": line 1 is no sample: <!doctype html>");
  status_ = 503;
  EXPECT_EQ(Failure(), url + ": HTTP status 503");
  status_ = 200;
  body_ = std::string(17 << 20, '#');
  EXPECT_EQ(Failure(), url + ": the answer is too long");
}

TEST(MetricsEndpointAddressTest, NobodyThere) {
  const auto samples = MetricsEndpoint::Create("127.0.0.1:1", absl::Seconds(60))->Scrape();
  EXPECT_EQ(samples.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(samples.status().message(), "http://127.0.0.1:1/metrics: no connection");
}

// A process that is stopped: its connections come about, and stay silent.
TEST(MetricsEndpointAddressTest, WhoSaysNothingIsNotWaitedForLong) {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(at);
  ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&at), size), 0);
  ASSERT_EQ(listen(listener, 8), 0);
  ASSERT_EQ(getsockname(listener, reinterpret_cast<sockaddr*>(&at), &size), 0);
  const std::string address = absl::StrCat("127.0.0.1:", ntohs(at.sin_port));
  const absl::Time begin = absl::Now();
  const auto samples = MetricsEndpoint::Create(address, absl::Milliseconds(50))->Scrape();
  EXPECT_THAT(std::string(samples.status().message()), HasSubstr("no HTTP answer in time"));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(60));
  close(listener);
}

TEST(MetricsEndpointAddressTest, OnlyHostAndPort) {
  for (const char* wrong :
       {"", "localhost", "localhost:", ":9464", "localhost:0", "localhost:65536", "localhost:x",
        "http://localhost:9464", "localhost:9464/metrics", "::1:9464", "[::1]", "[]:9464",
        "localhost:-1"}) {
    const auto endpoint = MetricsEndpoint::Create(wrong, absl::Seconds(1));
    ASSERT_FALSE(endpoint.ok()) << wrong;
    EXPECT_EQ(endpoint.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(endpoint.status().message()), HasSubstr(absl::StrCat("'", wrong, "'")));
  }
  for (const char* right : {"localhost:9464", "[::1]:9464", "10.0.0.1:1", "a.b-c:65535"}) {
    EXPECT_TRUE(MetricsEndpoint::Create(right, absl::Seconds(1)).ok()) << right;
  }
}

}  // namespace
}  // namespace tauserve::client
