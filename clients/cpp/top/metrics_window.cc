#include "clients/cpp/top/metrics_window.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tauserve::client::top {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

}  // namespace

void MetricsWindow::Add(absl::Time time, Samples samples) {
  scrapes_.push_back({time, std::move(samples)});
  if (scrapes_.size() > intervals_ + 1) scrapes_.pop_front();
}

Labels MetricsWindow::LabelsOf(absl::string_view name) const {
  Labels labels;
  ForEachSeries(scrapes_.back().samples, name, {},
                [&](const Series& series, double) { labels = series.labels; });
  return labels;
}

double MetricsWindow::Value(absl::string_view name, const Labels& labels) const {
  double sum = kNaN;
  ForEachSeries(scrapes_.back().samples, name, labels,
                [&](const Series&, double value) { sum = std::isnan(sum) ? value : sum + value; });
  return sum;
}

double MetricsWindow::Increase(absl::string_view name, const Labels& labels) const {
  if (scrapes_.size() < 2) return kNaN;
  double sum = kNaN;
  for (size_t i = 1; i < scrapes_.size(); i++) {
    const Samples& from = scrapes_[i - 1].samples;
    const Samples& to = scrapes_[i].samples;
    ForEachSeries(to, name, labels, [&](const Series& series, double value) {
      sum = (std::isnan(sum) ? 0 : sum) + IncreaseBetween(from, to, series, value);
    });
  }
  return sum;
}

double MetricsWindow::Rate(absl::string_view name, const Labels& labels) const {
  return span() > absl::ZeroDuration() ? Increase(name, labels) / absl::ToDoubleSeconds(span())
                                       : kNaN;
}

double MetricsWindow::Ratio(absl::string_view name, absl::string_view of,
                            const Labels& labels) const {
  const double whole = Increase(of, labels);
  return whole > 0 ? Increase(name, labels) / whole : kNaN;
}

double MetricsWindow::Mean(absl::string_view histogram, const Labels& labels) const {
  return Ratio(absl::StrCat(histogram, "_sum"), absl::StrCat(histogram, "_count"), labels);
}

double MetricsWindow::Quantile(double q, absl::string_view histogram, const Labels& labels) const {
  const std::string name = absl::StrCat(histogram, "_bucket");
  std::map<double, double> buckets;  // upper bound: observations up to it
  ForEachSeries(scrapes_.back().samples, name, labels, [&](const Series& series, double) {
    const auto le = series.labels.find("le");
    if (le == series.labels.end()) return;
    const double bound = le->second == "+Inf" ? std::numeric_limits<double>::infinity()
                                              : std::strtod(le->second.c_str(), nullptr);
    if (buckets.contains(bound)) return;  // of other series of this name: they are in the sum
    Labels bucket = labels;
    bucket.insert(*le);
    buckets[bound] = Increase(name, bucket);
  });
  if (buckets.size() < 2 || std::isfinite(buckets.rbegin()->first)) return kNaN;
  const double all = buckets.rbegin()->second;
  if (!(all > 0)) return kNaN;
  const double rank = q * all;
  double from = 0, below = 0;
  for (const auto& [to, count] : buckets) {
    if (count >= rank) {
      if (std::isinf(to)) return from;
      if (from == 0 && to <= 0) return to;
      return from + (to - from) * (rank - below) / (count - below);
    }
    from = to;
    below = std::max(below, count);
  }
  return kNaN;
}

}  // namespace tauserve::client::top
