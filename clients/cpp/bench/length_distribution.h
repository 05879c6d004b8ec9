// How many tokens prompts and outputs have.
#ifndef TAUSERVE_CLIENTS_CPP_BENCH_LENGTH_DISTRIBUTION_H_
#define TAUSERVE_CLIENTS_CPP_BENCH_LENGTH_DISTRIBUTION_H_

#include <cstdint>
#include <optional>
#include <random>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tauserve::bench {

class LengthDistribution {
 public:
  // "128", "uniform:64:256" (both included), "normal:512:128", "lognormal:512:256": of the last two,
  // mean and standard deviation of the length itself. InvalidArgument names what is wrong.
  static absl::StatusOr<LengthDistribution> Parse(absl::string_view text);

  // In [1, max]; what is drawn outside is moved to the nearer end.
  uint32_t Sample(std::mt19937_64& random, uint32_t max) const;

  // The longest that can be drawn; unset if there is no bound.
  std::optional<uint32_t> largest() const;
  const std::string& text() const { return text_; }

 private:
  enum class Kind { kFixed, kUniform, kNormal, kLognormal };

  Kind kind_ = Kind::kFixed;
  double a_ = 1;  // the length; the least; the mean; the mean of the logarithm
  double b_ = 1;  // the same; the most; the standard deviation; that of the logarithm
  std::string text_;
};

}  // namespace tauserve::bench

#endif  // TAUSERVE_CLIENTS_CPP_BENCH_LENGTH_DISTRIBUTION_H_
