#include "clients/cpp/bench/distribution.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace tauserve::bench {

Distribution::Distribution(std::vector<double> values) : sorted_(std::move(values)) {
  std::sort(sorted_.begin(), sorted_.end());
  if (!sorted_.empty()) {
    mean_ = std::accumulate(sorted_.begin(), sorted_.end(), 0.0) / sorted_.size();
  }
}

double Distribution::Percentile(double percent) const {
  if (sorted_.empty()) return 0;
  const double place = (sorted_.size() - 1) * percent / 100;
  const size_t below = static_cast<size_t>(std::floor(place));
  const size_t above = std::min(below + 1, sorted_.size() - 1);
  return sorted_[below] + (place - below) * (sorted_[above] - sorted_[below]);
}

}  // namespace tauserve::bench
