// The last few scrapes of a server, and what can be said of the time that they span: increases, rates, means and
// percentiles, as Prometheus computes them, without its extrapolation.
#ifndef TAUSERVE_CLIENTS_CPP_TOP_METRICS_WINDOW_H_
#define TAUSERVE_CLIENTS_CPP_TOP_METRICS_WINDOW_H_

#include <deque>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "clients/cpp/metrics/samples.h"

namespace tauserve::client::top {

// Of all series of a name that have the given labels, the sum. NaN: nothing can be said, for want of a series, a second
// scrape, or of observations.
class MetricsWindow {
 public:
  // Spans so many times between scrapes, at most.
  explicit MetricsWindow(int intervals) : intervals_(intervals) {}

  void Add(absl::Time time, Samples samples);

  bool empty() const { return scrapes_.empty(); }
  absl::Time newest() const { return scrapes_.back().time; }
  absl::Duration span() const { return newest() - scrapes_.front().time; }
  // Of some series of this name in the newest scrape; without labels if there is none.
  Labels LabelsOf(absl::string_view name) const;

  double Value(absl::string_view name, const Labels& labels = {}) const;
  // By IncreaseBetween from scrape to scrape.
  double Increase(absl::string_view name, const Labels& labels = {}) const;
  double Rate(absl::string_view name, const Labels& labels = {}) const;
  // Increase of `name` for each increase of `of`.
  double Ratio(absl::string_view name, absl::string_view of, const Labels& labels = {}) const;
  // histogram_quantile over the increases of `histogram`'s buckets.
  double Quantile(double q, absl::string_view histogram, const Labels& labels = {}) const;
  double Mean(absl::string_view histogram, const Labels& labels = {}) const;

 private:
  struct Scrape {
    absl::Time time;
    Samples samples;
  };

  const int intervals_;
  std::deque<Scrape> scrapes_;
};

}  // namespace tauserve::client::top

#endif  // TAUSERVE_CLIENTS_CPP_TOP_METRICS_WINDOW_H_
