// Rotary position embedding: what a config's rope keys mean as inverse frequencies and an attention
// factor.
//
//   default  Su et al. 2021 (arXiv 2104.09864): theta^(-2d / rotary_dim) for d < rotary_dim / 2
//   linear   Chen et al. 2023 (arXiv 2306.15595): all frequencies divided by `factor`
//   llama3   Llama 3.1's rule: frequencies whose wavelength exceeds the original context /
//            low_freq_factor are divided by `factor`, those under the original context /
//            high_freq_factor are kept, and between them it is blended
//   yarn     Peng et al. 2023 (arXiv 2309.00071): blended by how often a dimension turns within
//            the original context, with an attention factor on cosine and sine
#ifndef TAUSERVE_SERVER_MODEL_ROPE_H_
#define TAUSERVE_SERVER_MODEL_ROPE_H_

#include <cstdint>

#include "kernels/backend.h"
#include "server/model/json_object.h"

namespace tauserve {

struct RopeParameters {
  enum class Kind { kDefault, kLinear, kLlama3, kYarn };
  Kind kind = Kind::kDefault;
  double theta = 10000;
  int rotary_dim = 0;  // dims of a head that turn, even
  double factor = 1;
  double original_context = 0;  // tokens; llama3, yarn
  double low_freq_factor = 1;   // llama3
  double high_freq_factor = 4;  // llama3
  double beta_fast = 32;  // yarn: turns within the original context above which a dimension is kept
  double beta_slow = 1;   // yarn: and below which it is interpolated
  bool truncate = true;   // yarn: that range of dimensions is widened to whole numbers
  double attention_factor = 1;  // yarn
};

// Reads `rope_theta`, `partial_rotary_factor` and `rope_scaling` (with `rope_type` or `type`), or
// the newer `rope_parameters` that holds all of them. What is wrong goes to config's status.
RopeParameters ReadRopeParameters(const JsonObject& config, int head_dim, int64_t max_context);

RopeSpec MakeRopeSpec(const RopeParameters& parameters);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_MODEL_ROPE_H_
