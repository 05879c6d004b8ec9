#include "clients/cpp/top/metrics_window.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tauserve::client::top {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

bool Has(const Labels& have, const Labels& wanted) {
  return std::all_of(wanted.begin(), wanted.end(), [&](const auto& label) {
    const auto it = have.find(label.first);
    return it != have.end() && it->second == label.second;
  });
}

template <typename Visit>
void ForEach(const Samples& samples, absl::string_view name, const Labels& labels,
             const Visit& visit) {
  for (auto it = samples.lower_bound({std::string(name), {}});
       it != samples.end() && it->first.name == name; ++it) {
    if (Has(it->first.labels, labels)) visit(it->first, it->second);
  }
}

std::optional<double> ValueOf(const Samples& samples, const Series& series) {
  const auto it = samples.find(series);
  if (it == samples.end()) return std::nullopt;
  return it->second;
}

bool AreOfOneProcess(const Samples& a, const Samples& b) {
  const Series start = {"process_start_time_seconds", {}};
  return ValueOf(a, start) == ValueOf(b, start);
}

double IncreaseBetween(const Samples& from, const Samples& to, const Series& series, double value) {
  const double before = AreOfOneProcess(from, to) ? ValueOf(from, series).value_or(0) : 0;
  return value < before ? value : value - before;
}

}  // namespace

void MetricsWindow::Add(absl::Time time, Samples samples) {
  scrapes_.push_back({time, std::move(samples)});
  if (scrapes_.size() > intervals_ + 1) scrapes_.pop_front();
}

Labels MetricsWindow::LabelsOf(absl::string_view name) const {
  Labels labels;
  ForEach(scrapes_.back().samples, name, {},
          [&](const Series& series, double) { labels = series.labels; });
  return labels;
}

double MetricsWindow::Value(absl::string_view name, const Labels& labels) const {
  double sum = kNaN;
  ForEach(scrapes_.back().samples, name, labels,
          [&](const Series&, double value) { sum = std::isnan(sum) ? value : sum + value; });
  return sum;
}

double MetricsWindow::Increase(absl::string_view name, const Labels& labels) const {
  if (scrapes_.size() < 2) return kNaN;
  double sum = kNaN;
  for (size_t i = 1; i < scrapes_.size(); i++) {
    const Samples& from = scrapes_[i - 1].samples;
    const Samples& to = scrapes_[i].samples;
    ForEach(to, name, labels, [&](const Series& series, double value) {
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
  ForEach(scrapes_.back().samples, name, labels, [&](const Series& series, double) {
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
