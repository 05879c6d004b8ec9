// Serves the metrics over HTTP: GET /metrics in Prometheus' text format; GET /healthz says that the process lives; GET / is
// a page with live charts.
#ifndef TAUSERVE_SERVER_OBSERVABILITY_METRICS_SERVER_H_
#define TAUSERVE_SERVER_OBSERVABILITY_METRICS_SERVER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/observability/metrics.h"

struct mg_connection;
struct mg_context;

namespace tauserve {

// On CivetWeb, which prometheus-cpp brings; its own exposer would add families about itself, named and measured by other
// rules than ours.
class MetricsServer {
 public:
  // `address` is HOST:PORT; port 0 picks a free one. Unavailable if it can't be bound. `metrics` must outlive the server.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(const std::string& address,
                                                              const Metrics& metrics);
  ~MetricsServer();  // may take two seconds: CivetWeb looks for its end that often
  MetricsServer(const MetricsServer&) = delete;
  MetricsServer& operator=(const MetricsServer&) = delete;

  const std::string& address() const { return address_; }  // with the port that was picked

 private:
  explicit MetricsServer(const Metrics& metrics) : metrics_(metrics) {}
  static int ServeMetrics(mg_connection* connection, void* server);
  static int ServeHealth(mg_connection* connection, void* server);
  static int ServePage(mg_connection* connection, void* server);

  const Metrics& metrics_;
  mg_context* context_ = nullptr;
  std::string address_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_OBSERVABILITY_METRICS_SERVER_H_
