#include "server/observability/metrics_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>

namespace tauserve {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// What the server at `address` (127.0.0.1:PORT) answers to `request`, until it closes the connection.
std::string Ask(const std::string& address, const std::string& request) {
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  std::string answer;
  if (connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) == 0 &&
      write(fd, request.data(), request.size()) == request.size()) {
    char buffer[4096];
    for (ssize_t n; (n = read(fd, buffer, sizeof(buffer))) > 0;) answer.append(buffer, n);
  }
  close(fd);
  return answer;
}

std::string Get(const std::string& address, const std::string& path) {
  return Ask(address, "GET " + path + " HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
}

TEST(MetricsServerTest, ServesWhatIsCounted) {
  Metrics metrics("m");
  metrics.SetLoadSource([] { return LoadSnapshot{7}; });
  auto server = MetricsServer::Start("127.0.0.1:0", metrics);
  ASSERT_TRUE(server.ok()) << server.status();
  const std::string address = (*server)->address();
  EXPECT_THAT(address, testing::Not(testing::EndsWith(":0")));

  metrics.GenerationTokens(5);
  const std::string answer = Get(address, "/metrics");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK"));
  EXPECT_THAT(answer, HasSubstr("Content-Type: text/plain; version=0.0.4"));
  EXPECT_THAT(answer, HasSubstr("\ntauserve_generation_tokens_total{model_name=\"m\"} 5\n"));
  EXPECT_THAT(answer, HasSubstr("\ntauserve_requests_running{model_name=\"m\"} 7\n"));
  metrics.GenerationTokens(1);
  EXPECT_THAT(Get(address, "/metrics"), HasSubstr("_tokens_total{model_name=\"m\"} 6\n"));

  EXPECT_THAT(Get(address, "/healthz"), testing::EndsWith("\r\n\r\nok\n"));
  const std::string page = Get(address, "/");
  EXPECT_THAT(page, StartsWith("HTTP/1.1 200 OK"));
  EXPECT_THAT(page, HasSubstr("Content-Type: text/html; charset=utf-8"));
  EXPECT_THAT(page, HasSubstr("default-src 'none'"));  // no outside resources
  EXPECT_THAT(page, testing::EndsWith("</html>\n"));
  EXPECT_THAT(Get(address, "/else"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(Ask(address, "HEAD /healthz HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"),
              testing::EndsWith("\r\n\r\n"));
  EXPECT_THAT(Ask(address, "DELETE /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"),
              StartsWith("HTTP/1.1 405"));
}

TEST(MetricsServerTest, AddressInUse) {
  Metrics metrics("m");
  auto first = MetricsServer::Start("127.0.0.1:0", metrics);
  ASSERT_TRUE(first.ok());
  const auto second = MetricsServer::Start((*first)->address(), metrics);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr((*first)->address()));
}

}  // namespace
}  // namespace tauserve
