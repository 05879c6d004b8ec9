#include "clients/cpp/bench/length_distribution.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace tauserve::bench {
namespace {

// Longer than any context, and exact as a double.
constexpr double kLargest = 1 << 30;

absl::Status Invalid(absl::string_view text, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("'", text, "' is no length: ", why,
                   "; such as 128, uniform:64:256, normal:512:128, lognormal:512:256"));
}

}  // namespace

absl::StatusOr<LengthDistribution> LengthDistribution::Parse(absl::string_view text) {
  LengthDistribution d;
  d.text_ = std::string(text);
  const std::vector<std::string> words = absl::StrSplit(text, ':');
  const std::string& name = words[0];
  std::vector<double> numbers;
  for (size_t i = words.size() == 1 ? 0 : 1; i < words.size(); i++) {
    double number = 0;
    if (!absl::SimpleAtod(words[i], &number) || !std::isfinite(number)) {
      return Invalid(text, absl::StrCat("'", words[i], "' is no number"));
    }
    if (number < 0 || number > kLargest) {
      return Invalid(text, absl::StrCat(words[i], " is not in [0, ", int64_t{1 << 30}, "]"));
    }
    numbers.push_back(number);
  }
  if (numbers.size() != (words.size() == 1 ? 1 : 2)) return Invalid(text, "it needs two numbers");
  d.a_ = numbers[0];
  d.b_ = numbers.back();
  if (d.a_ < 1) return Invalid(text, absl::StrCat(words[words.size() == 1 ? 0 : 1], " is under 1"));
  const bool whole = d.a_ == std::floor(d.a_) && d.b_ == std::floor(d.b_);
  if (words.size() == 1) {
    d.kind_ = Kind::kFixed;
    if (!whole) return Invalid(text, "it is not whole");
  } else if (name == "uniform") {
    d.kind_ = Kind::kUniform;
    if (!whole || d.b_ < d.a_) return Invalid(text, "it needs whole numbers, the least first");
  } else if (name == "normal") {
    d.kind_ = Kind::kNormal;
  } else if (name == "lognormal") {
    d.kind_ = Kind::kLognormal;
    const double variance = std::log1p((d.b_ / d.a_) * (d.b_ / d.a_));
    d.a_ = std::log(d.a_) - variance / 2;
    d.b_ = std::sqrt(variance);
  } else {
    return Invalid(text, absl::StrCat("'", name, "' is no distribution"));
  }
  return d;
}

uint32_t LengthDistribution::Sample(std::mt19937_64& random, uint32_t max) const {
  double length = a_;
  switch (kind_) {
    case Kind::kFixed:
      break;
    case Kind::kUniform:
      length = std::uniform_int_distribution<uint32_t>(static_cast<uint32_t>(a_),
                                                       static_cast<uint32_t>(b_))(random);
      break;
    case Kind::kNormal:
      if (b_ > 0) length = std::normal_distribution<double>(a_, b_)(random);
      break;
    case Kind::kLognormal:
      length = std::exp(b_ > 0 ? std::normal_distribution<double>(a_, b_)(random) : a_);
      break;
  }
  return static_cast<uint32_t>(
      std::clamp(std::round(length), 1.0, std::max(1.0, static_cast<double>(max))));
}

std::optional<uint32_t> LengthDistribution::largest() const {
  if (kind_ == Kind::kNormal || kind_ == Kind::kLognormal) return std::nullopt;
  return static_cast<uint32_t>(b_);
}

}  // namespace tauserve::bench
