// Scrapes a server again and again from a thread of its own, so that one that hangs keeps nobody from the keyboard.
#ifndef TAUSERVE_CLIENTS_CPP_TOP_SCRAPER_H_
#define TAUSERVE_CLIENTS_CPP_TOP_SCRAPER_H_

#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "clients/cpp/metrics/metrics_endpoint.h"
#include "clients/cpp/top/monitor.h"

namespace tauserve::client::top {

class Scraper {
 public:
  // The first scrape comes after one interval. One that takes longer than an interval leaves those out that it overlaps.
  Scraper(MetricsEndpoint endpoint, absl::Duration interval);
  // Does not wait for a scrape under way.
  ~Scraper();
  Scraper(const Scraper&) = delete;
  Scraper& operator=(const Scraper&) = delete;

  // Readable for poll() when Take has something.
  int descriptor() const;
  std::vector<Scrape> Take();

 private:
  struct Shared;
  const std::shared_ptr<Shared> shared_;  // with the thread, which may outlive this
};

}  // namespace tauserve::client::top

#endif  // TAUSERVE_CLIENTS_CPP_TOP_SCRAPER_H_
