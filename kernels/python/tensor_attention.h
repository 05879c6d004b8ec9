// Attention of whole arrays and its gradients: what the Python functions call for arrays in host memory.
#ifndef TAUSERVE_KERNELS_PYTHON_TENSOR_ATTENTION_H_
#define TAUSERVE_KERNELS_PYTHON_TENSOR_ATTENTION_H_

#include <cstdint>
#include <vector>

#include "kernels/attention.h"
#include "kernels/python/arrays.h"

namespace tauserve::python {

// Where the sequences of packed arrays begin: [sequences + 1], from 0 to the number of tokens. Empty: the arrays are not
// packed.
struct Offsets {
  std::vector<int32_t> queries;
  std::vector<int32_t> keys;
};

// q [batch, heads, tokens, head_dim], or packed [tokens, heads, head_dim]; k and v likewise, with KV heads and keys.
// Throws where shapes, types or offsets do not fit each other.
struct AttentionInputs {
  Array q, k, v;
  Offsets offsets;

  void Check() const;
};

// Writes `out`, shaped as q, and tau, float32 [batch, heads, tokens] or packed [heads, tokens], unless null.
AttentionStats Attend(const AttentionInputs& in, const AttentionSpec& spec, int threads,
                      const Array& out, float* tau);

// Writes the gradients dq, dk and dv, shaped as q, k and v, from that of `out` and tau as Attend left it.
void AttendBackward(const AttentionInputs& in, const AttentionSpec& spec, int threads,
                    const Array& dout, float* tau, const Array& dq, const Array& dk,
                    const Array& dv);

}  // namespace tauserve::python

#endif  // TAUSERVE_KERNELS_PYTHON_TENSOR_ATTENTION_H_
