// Follows a server from scrape to scrape: what its figures are, and how they came there.
#ifndef TAUSERVE_CLIENTS_CPP_TOP_MONITOR_H_
#define TAUSERVE_CLIENTS_CPP_TOP_MONITOR_H_

#include <deque>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "clients/cpp/top/metrics_window.h"
#include "clients/cpp/top/view.h"

namespace tauserve::client::top {

struct Scrape {
  absl::Time time;
  absl::StatusOr<Samples> samples;
};

class Monitor {
 public:
  // Figures are of the last `intervals` between scrapes. `first` has samples.
  Monitor(std::string address, absl::Duration interval, int intervals, Scrape first);

  // One that failed leaves the figures as they are.
  void Add(Scrape scrape);
  State StateAt(absl::Time now) const;

 private:
  const std::string address_;
  const absl::Duration interval_;
  MetricsWindow window_;
  ServerFacts facts_;
  std::vector<FigureRow> rows_;
  std::vector<std::deque<double>> curves_;
  std::string failure_;
};

}  // namespace tauserve::client::top

#endif  // TAUSERVE_CLIENTS_CPP_TOP_MONITOR_H_
