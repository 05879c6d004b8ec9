// The server's load, and what its engine's time has gone to, computed when they are scraped.
#ifndef TAUSERVE_SERVER_OBSERVABILITY_LOAD_GAUGES_H_
#define TAUSERVE_SERVER_OBSERVABILITY_LOAD_GAUGES_H_

#include <prometheus/collectable.h>

#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "server/observability/metrics.h"

namespace tauserve {

class Metrics::LoadGauges : public prometheus::Collectable {
 public:
  explicit LoadGauges(std::string model_name) : model_name_(std::move(model_name)) {}
  void set_source(std::function<LoadSnapshot()> source);
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  prometheus::MetricFamily EngineSeconds(const LoadSnapshot& load) const;

  const std::string model_name_;
  mutable std::mutex mutex_;
  std::function<LoadSnapshot()> source_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_OBSERVABILITY_LOAD_GAUGES_H_
