// What Prometheus' client libraries tell of their process, under the names that they all use: no prefix, no model.
#ifndef TAUSERVE_SERVER_OBSERVABILITY_PROCESS_METRICS_H_
#define TAUSERVE_SERVER_OBSERVABILITY_PROCESS_METRICS_H_

#include <prometheus/collectable.h>

#include <vector>

#include "server/observability/metrics.h"

namespace tauserve {

// Read from /proc/self at the scrape; what can't be read is left out.
class Metrics::ProcessMetrics : public prometheus::Collectable {
 public:
  ProcessMetrics();
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  double start_seconds_;  // since the epoch; 0 if unknown
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_OBSERVABILITY_PROCESS_METRICS_H_
