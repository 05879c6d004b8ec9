#include "clients/cpp/bench/arrivals.h"

#include <cmath>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace tauserve::bench {

absl::StatusOr<RateCurve> RateCurve::ParseRamp(absl::string_view text) {
  const auto invalid = [&](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is no ramp: ", why, "; such as 1:20, or in 5 steps 1:20:5"));
  };
  const std::vector<std::string> words = absl::StrSplit(text, ':');
  if (words.size() != 2 && words.size() != 3) return invalid("it needs two rates");
  RateCurve curve;
  for (int i = 0; i < 2; i++) {
    double& rate = i == 0 ? curve.first : curve.last;
    if (!absl::SimpleAtod(words[i], &rate) || !(rate > 0) || !std::isfinite(rate)) {
      return invalid(absl::StrCat("'", words[i], "' is no rate above 0"));
    }
  }
  if (words.size() == 3 &&
      (!absl::SimpleAtoi(words[2], &curve.steps) || curve.steps < 2 || curve.steps > 1000)) {
    return invalid(absl::StrCat("'", words[2], "' steps, must be in [2, 1000]"));
  }
  return curve;
}

double RateCurve::At(double seconds) const {
  if (seconds >= ramp_seconds) return last;
  const double share = seconds / ramp_seconds;
  if (steps == 0) return first + (last - first) * share;
  return first + (last - first) * std::floor(share * steps) / (steps - 1);
}

double RateCurve::TimeOf(double count) const {
  const double in_ramp = mean() * ramp_seconds;
  if (count >= in_ramp) return ramp_seconds + (count - in_ramp) / last;
  if (steps == 0) {
    // first·t + slope·t²/2 = count, in the form that does not cancel.
    const double slope = (last - first) / ramp_seconds;
    return 2 * count / (first + std::sqrt(first * first + 2 * slope * count));
  }
  const double width = ramp_seconds / steps;
  for (uint32_t i = 0; i < steps; i++) {
    const double rate = first + (last - first) * i / (steps - 1);
    if (count < rate * width) return i * width + count / rate;
    count -= rate * width;
  }
  return ramp_seconds;  // by rounding
}

Arrivals::Arrivals(const RateCurve& curve, double burstiness, uint64_t seed)
    : curve_(curve), burstiness_(burstiness), random_(seed) {}

double Arrivals::Next() {
  expected_ += std::isinf(burstiness_)
                   ? 1
                   : std::gamma_distribution<double>(burstiness_, 1 / burstiness_)(random_);
  return curve_.TimeOf(expected_);
}

}  // namespace tauserve::bench
