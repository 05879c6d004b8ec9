#include "server/model/rope.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace tauserve {
namespace {

constexpr double kPi = 3.14159265358979323846;

// 0.1 m ln(s) + 1: the yarn paper's equation 22, with the multiplier m of later models.
double YarnScale(double factor, double multiplier) {
  return factor <= 1 ? 1 : 0.1 * multiplier * std::log(factor) + 1;
}

void ReadLlama3(const JsonObject& scaling, RopeParameters* rope) {
  rope->low_freq_factor = scaling.Number("low_freq_factor", {0, 1e6, true});
  rope->high_freq_factor = scaling.Number("high_freq_factor", {0, 1e6, true});
  if (rope->low_freq_factor >= rope->high_freq_factor) {
    scaling.Fail(absl::StrCat(scaling.FullKey("low_freq_factor"), " is ", rope->low_freq_factor,
                              ", must be below high_freq_factor, ", rope->high_freq_factor));
  }
}

void ReadYarn(const JsonObject& scaling, RopeParameters* rope) {
  const Interval positive{0, 1e6, true};
  rope->beta_fast = scaling.Number("beta_fast", positive, 32);
  rope->beta_slow = scaling.Number("beta_slow", positive, 1);
  if (rope->beta_slow >= rope->beta_fast) {
    scaling.Fail(absl::StrCat(scaling.FullKey("beta_slow"), " is ", rope->beta_slow,
                              ", must be below beta_fast, ", rope->beta_fast));
  }
  rope->truncate = scaling.Bool("truncate", true);
  const double mscale = scaling.Number("mscale", {0, 1e3}, 0);
  const double mscale_all_dim = scaling.Number("mscale_all_dim", {0, 1e3}, 0);
  const double from_factor =
      mscale > 0 && mscale_all_dim > 0
          ? YarnScale(rope->factor, mscale) / YarnScale(rope->factor, mscale_all_dim)
          : YarnScale(rope->factor, 1);
  rope->attention_factor = scaling.Number("attention_factor", positive, from_factor);
}

// The dimension pair that turns `rotations` times within the original context.
double YarnDimension(const RopeParameters& rope, double rotations) {
  return rope.rotary_dim * std::log(rope.original_context / (rotations * 2 * kPi)) /
         (2 * std::log(rope.theta));
}

// How much of each dimension pair's frequency is interpolated: 0 keeps it, 1 divides it by the
// factor.
std::vector<double> YarnRamp(const RopeParameters& rope) {
  double low = YarnDimension(rope, rope.beta_fast);
  double high = YarnDimension(rope, rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, rope.rotary_dim - 1.0);
  if (low == high) high += 0.001;
  std::vector<double> ramp(rope.rotary_dim / 2);
  for (size_t d = 0; d < ramp.size(); ++d) {
    ramp[d] = std::clamp((double(d) - low) / (high - low), 0.0, 1.0);
  }
  return ramp;
}

double Llama3Frequency(const RopeParameters& rope, double frequency) {
  const double turns = rope.original_context * frequency / (2 * kPi);
  if (turns > rope.high_freq_factor) return frequency;
  if (turns < rope.low_freq_factor) return frequency / rope.factor;
  const double kept =
      (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return kept * frequency + (1 - kept) * frequency / rope.factor;
}

}  // namespace

RopeParameters ReadRopeParameters(const JsonObject& config, int head_dim, int64_t max_context) {
  const bool newer = config.Has("rope_parameters");
  const JsonObject scaling = config.Object(newer ? "rope_parameters" : "rope_scaling");
  // In the newer form these two may still stand outside.
  const JsonObject& theta_at = scaling.Has("rope_theta") ? scaling : config;
  const JsonObject& partial_at = scaling.Has("partial_rotary_factor") ? scaling : config;

  RopeParameters rope;
  rope.theta = theta_at.Number("rope_theta", {1, 1e12, true}, 10000);
  const double partial = partial_at.Number("partial_rotary_factor", {0, 1, true}, 1);
  rope.rotary_dim = static_cast<int>(head_dim * partial);
  if (rope.rotary_dim < 2 || rope.rotary_dim % 2 != 0) {
    config.Fail(absl::StrCat(partial_at.FullKey("partial_rotary_factor"), " of ", partial,
                             " turns ", rope.rotary_dim, " of ", head_dim,
                             " dims of a head, must be an even number of at least 2"));
    rope.rotary_dim = head_dim;
  }

  if (scaling.Has("full_attention") || scaling.Has("sliding_attention")) {
    config.Fail("rope_parameters of its own for each layer type is not supported");
  }
  const std::string type = scaling.String("rope_type", scaling.String("type", "default"));
  if (type == "default") return rope;
  if (type == "linear") {
    rope.kind = RopeParameters::Kind::kLinear;
  } else if (type == "llama3") {
    rope.kind = RopeParameters::Kind::kLlama3;
  } else if (type == "yarn") {
    rope.kind = RopeParameters::Kind::kYarn;
  } else {
    scaling.Fail(absl::StrCat(scaling.FullKey("rope_type"), " is \"", type,
                              "\", must be one of default, linear, llama3, yarn"));
    return rope;
  }
  rope.original_context = scaling.Number("original_max_position_embeddings", {1, 1e9}, max_context);
  std::optional<double> factor_fallback;  // only yarn has one
  if (rope.kind == RopeParameters::Kind::kYarn) {
    factor_fallback = std::max(1.0, max_context / rope.original_context);
  }
  rope.factor = scaling.Number("factor", {1, 1e6}, factor_fallback);
  if (rope.kind == RopeParameters::Kind::kLlama3) ReadLlama3(scaling, &rope);
  if (rope.kind == RopeParameters::Kind::kYarn) ReadYarn(scaling, &rope);
  return rope;
}

RopeSpec MakeRopeSpec(const RopeParameters& rope) {
  RopeSpec spec;
  spec.rotary_dim = rope.rotary_dim;
  spec.attention_factor = static_cast<float>(rope.attention_factor);
  std::vector<double> yarn_ramp;
  if (rope.kind == RopeParameters::Kind::kYarn) yarn_ramp = YarnRamp(rope);
  for (int d = 0; d < rope.rotary_dim / 2; ++d) {
    double frequency = std::pow(rope.theta, -2.0 * d / rope.rotary_dim);
    switch (rope.kind) {
      case RopeParameters::Kind::kDefault:
        break;
      case RopeParameters::Kind::kLinear:
        frequency /= rope.factor;
        break;
      case RopeParameters::Kind::kLlama3:
        frequency = Llama3Frequency(rope, frequency);
        break;
      case RopeParameters::Kind::kYarn:
        frequency *= (1 - yarn_ramp[d]) + yarn_ramp[d] / rope.factor;
        break;
    }
    spec.inverse_frequency.push_back(static_cast<float>(frequency));
  }
  return spec;
}

}  // namespace tauserve
