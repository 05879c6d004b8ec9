#include "server/observability/metrics_server.h"

#include <civetweb.h>
#include <prometheus/collectable.h>
#include <prometheus/text_serializer.h>

#include <cstring>
#include <iterator>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/observability/status_page.h"

namespace tauserve {
namespace {

constexpr int kOk = 200;
constexpr int kNotFound = 404;
constexpr int kMethodNotAllowed = 405;

// Answers GET and HEAD; the status, which CivetWeb logs.
int Answer(mg_connection* connection, const char* content_type, const std::string& body) {
  const char* method = mg_get_request_info(connection)->request_method;
  const bool head = std::strcmp(method, "HEAD") == 0;
  if (!head && std::strcmp(method, "GET") != 0) {
    mg_send_http_error(connection, kMethodNotAllowed, "%s is not allowed\n", method);
    return kMethodNotAllowed;
  }
  mg_send_http_ok(connection, content_type, static_cast<long long>(body.size()));
  if (!head) mg_write(connection, body.data(), body.size());
  return kOk;
}

int Silence(const mg_connection*, const char*) { return 1; }

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(const std::string& address,
                                                                    const Metrics& metrics) {
  std::unique_ptr<MetricsServer> server(new MetricsServer(metrics));
  // A thread waits for each connection: who connects and says nothing keeps one for two seconds.
  const char* options[] = {"listening_ports",    address.c_str(), "num_threads", "8",
                           "request_timeout_ms", "2000",          nullptr};
  mg_callbacks callbacks{};
  callbacks.log_message = Silence;  // it would print
  server->context_ = mg_start(&callbacks, nullptr, options);
  if (server->context_ == nullptr) {
    return absl::UnavailableError(absl::StrCat("--metrics_listen: cannot listen on ", address,
                                               ": in use, or not an address of this machine"));
  }
  mg_set_request_handler(server->context_, "/metrics", ServeMetrics, server.get());
  mg_set_request_handler(server->context_, "/healthz", ServeHealth, server.get());
  mg_set_request_handler(server->context_, "/", ServePage,
                         server.get());  // and whatever is not above
  mg_server_port port{};
  mg_get_server_ports(server->context_, 1, &port);
  server->address_ = absl::StrCat(address.substr(0, address.rfind(':')), ":", port.port);
  return server;
}

MetricsServer::~MetricsServer() {
  if (context_ != nullptr) mg_stop(context_);
}

int MetricsServer::ServeMetrics(mg_connection* connection, void* server) {
  std::vector<prometheus::MetricFamily> families;
  for (const auto& source : static_cast<MetricsServer*>(server)->metrics_.collectables()) {
    const std::shared_ptr<prometheus::Collectable> collectable = source.lock();
    if (collectable == nullptr) continue;
    std::vector<prometheus::MetricFamily> collected = collectable->Collect();
    std::move(collected.begin(), collected.end(), std::back_inserter(families));
  }
  return Answer(connection, "text/plain; version=0.0.4; charset=utf-8",
                prometheus::TextSerializer().Serialize(families));
}

int MetricsServer::ServeHealth(mg_connection* connection, void* /*server*/) {
  return Answer(connection, "text/plain; charset=utf-8", "ok\n");
}

int MetricsServer::ServePage(mg_connection* connection, void* /*server*/) {
  const char* path = mg_get_request_info(connection)->local_uri;
  if (std::strcmp(path, "/") != 0) {
    mg_send_http_error(connection, kNotFound, "%s is not here: /, /metrics, /healthz\n", path);
    return kNotFound;
  }
  return Answer(connection, "text/html; charset=utf-8", kStatusPage);
}

}  // namespace tauserve
