// Mean and percentiles of what was measured.
#ifndef TAUSERVE_CLIENTS_CPP_BENCH_DISTRIBUTION_H_
#define TAUSERVE_CLIENTS_CPP_BENCH_DISTRIBUTION_H_

#include <cstddef>
#include <vector>

namespace tauserve::bench {

class Distribution {
 public:
  Distribution() = default;
  explicit Distribution(std::vector<double> values);

  size_t count() const { return sorted_.size(); }
  // All are 0 if nothing was measured.
  double mean() const { return mean_; }
  double max() const { return sorted_.empty() ? 0 : sorted_.back(); }
  // Of `percent` in [0, 100]: the value at (count - 1) · percent / 100 in order, counted from 0,
  // between two by linear interpolation (NumPy's default). 0 is the least, 100 the largest.
  double Percentile(double percent) const;

 private:
  std::vector<double> sorted_;
  double mean_ = 0;
};

}  // namespace tauserve::bench

#endif  // TAUSERVE_CLIENTS_CPP_BENCH_DISTRIBUTION_H_
