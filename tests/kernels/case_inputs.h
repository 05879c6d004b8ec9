// What random attention problems have in common: their spec, rounded inputs, one head's rows for the oracle.
#ifndef TAUSERVE_TESTS_KERNELS_CASE_INPUTS_H_
#define TAUSERVE_TESTS_KERNELS_CASE_INPUTS_H_

#include <cmath>
#include <vector>

#include "kernels/attention.h"
#include "kernels/half.h"

namespace tauserve {

// Of an AttentionCase or GradientCase.
template <typename Case>
AttentionSpec MakeSpec(const Case& c) {
  AttentionSpec spec;
  spec.num_heads = c.num_heads;
  spec.num_kv_heads = c.num_kv_heads;
  spec.head_dim = c.head_dim;
  spec.scale = c.scale != 0 ? c.scale : 1 / std::sqrt(static_cast<float>(c.head_dim));
  spec.sliding_window = c.sliding_window;
  spec.causal = c.causal;
  for (int h = 0; h < c.num_heads; h++) {
    spec.alpha.push_back(c.alpha[h % c.alpha.size()]);
    spec.alibi_slope.push_back(c.slope[h % c.slope.size()]);
  }
  return spec;
}

// To bfloat16.
inline void Round(std::vector<float>& x) {
  for (float& f : x) f = BFloat16ToFloat(FloatToBFloat16(f));
}

// Rows [from, from + tokens) of a head of x [tokens][heads][dim].
inline std::vector<double> HeadRows(const std::vector<float>& x, int from, int tokens, int heads,
                                    int head, int dim) {
  std::vector<double> rows;
  for (int t = from; t < from + tokens; t++) {
    const float* row = &x[(size_t(t) * heads + head) * dim];
    rows.insert(rows.end(), row, row + dim);
  }
  return rows;
}

}  // namespace tauserve

#endif  // TAUSERVE_TESTS_KERNELS_CASE_INPUTS_H_
