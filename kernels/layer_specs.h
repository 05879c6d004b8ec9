// Constants of a model's layers that the backends' operations take, beside attention's (kernels/attention.h). Plain
// structs, which device code may include.
#ifndef TAUSERVE_KERNELS_LAYER_SPECS_H_
#define TAUSERVE_KERNELS_LAYER_SPECS_H_

#include <cstdint>
#include <vector>

namespace tauserve {

// Rotary embedding of the first `rotary_dim` dims of each head, halves layout: dims (d, d + rotary_dim / 2) turn by
// position * inverse_frequency[d], and are multiplied by `attention_factor` (yarn; 1 otherwise).
struct RopeSpec {
  int rotary_dim = 0;
  std::vector<float> inverse_frequency;  // [rotary_dim / 2]
  float attention_factor = 1;
};

// ASEntmax query scaling (arXiv 2506.16640): query_scale[i][h] for position i = `delta` + beta * log(i + 2)^gamma with
// beta = softplus(b), gamma = gamma_range * tanh(g) from a projection of the token (`kAdaptive`), or constants of the
// head (`kLearned`), or delta = 0 and gamma = 1 (`kLogarithmic`). Heads before first_head get 1.
struct QueryScaleSpec {
  enum class Kind { kNone, kAdaptive, kLearned, kLogarithmic };
  Kind kind = Kind::kNone;
  int first_head = 0;
  float delta = 1;
  float gamma_range = 1;
  std::vector<float> beta;   // kLearned, kLogarithmic: [num_heads - first_head]
  std::vector<float> gamma;  // kLearned
};

enum class Activation { kSilu, kGeluTanh };

struct KvCacheSpec {
  int num_layers = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int num_pages = 0;
};

}  // namespace tauserve

#endif  // TAUSERVE_KERNELS_LAYER_SPECS_H_
