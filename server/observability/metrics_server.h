// Serves the metrics over HTTP: GET /metrics.
#ifndef TAUSERVE_SERVER_OBSERVABILITY_METRICS_SERVER_H_
#define TAUSERVE_SERVER_OBSERVABILITY_METRICS_SERVER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/observability/metrics.h"

namespace prometheus {
class Exposer;
}

namespace tauserve {

class MetricsServer {
 public:
  // `address` is HOST:PORT; port 0 picks a free one. Unavailable if it can't be bound. `metrics` must outlive the server.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(const std::string& address,
                                                              const Metrics& metrics);
  ~MetricsServer();
  const std::string& address() const { return address_; }  // with the port that was picked

 private:
  MetricsServer() = default;
  std::unique_ptr<prometheus::Exposer> exposer_;
  std::string address_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_OBSERVABILITY_METRICS_SERVER_H_
