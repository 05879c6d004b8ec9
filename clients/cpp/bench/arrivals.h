// When requests of an open loop arrive: a renewal process whose gaps are gamma distributed, at a rate
// that may change over the run.
#ifndef TAUSERVE_CLIENTS_CPP_BENCH_ARRIVALS_H_
#define TAUSERVE_CLIENTS_CPP_BENCH_ARRIVALS_H_

#include <cstdint>
#include <random>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tauserve::bench {

// Requests a second over the time of a run.
struct RateCurve {
  double first = 1;
  double last = 1;
  uint32_t steps = 0;       // so many equal times of one rate each; 0: linear
  double ramp_seconds = 0;  // from `first` to `last`, which then stays

  // "1:20", or in steps "1:20:5". Without its time.
  static absl::StatusOr<RateCurve> ParseRamp(absl::string_view text);

  bool is_ramp() const { return first != last; }
  double mean() const { return (first + last) / 2; }  // of the ramp, in steps too
  double At(double seconds) const;
  // When `count` arrivals are expected: the inverse of the rate's integral.
  double TimeOf(double count) const;
};

class Arrivals {
 public:
  // `burstiness` is the shape of the gamma distribution: 1 is a Poisson process, less is burstier,
  // infinity is even spacing.
  Arrivals(const RateCurve& curve, double burstiness, uint64_t seed);

  // Seconds from the start of the run, never less than before.
  double Next();

 private:
  RateCurve curve_;
  double burstiness_;
  std::mt19937_64 random_;
  double expected_ = 0;  // arrivals so far, by the rate's integral
};

}  // namespace tauserve::bench

#endif  // TAUSERVE_CLIENTS_CPP_BENCH_ARRIVALS_H_
