// Selection of each row's largest logits, as a launch on a stream.
#ifndef TAUSERVE_KERNELS_CUDA_TOP_LOGITS_H_
#define TAUSERVE_KERNELS_CUDA_TOP_LOGITS_H_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/tensor.h"
#include "kernels/top_logits.h"

namespace tauserve::cuda {

// A LogitsQuery as two words.
struct TopLogitsQuery {
  TopLogitsQuery() = default;
  explicit TopLogitsQuery(const LogitsQuery& q)
      : temperature(q.temperature), flags((q.whole ? kWhole : 0) | (q.unit_sum ? kUnitSum : 0)) {}
  static constexpr int32_t kWhole = 1, kUnitSum = 2;
  float temperature;
  int32_t flags;
};
static_assert(sizeof(TopLogitsQuery) == 2 * sizeof(int32_t), "StepState has room for two words");

// logits: float32. queries, out: [rows], device memory. As Backend::SelectTopLogits.
void SelectTopLogitsOf(Matrix logits, const TopLogitsQuery* queries, TopLogits* out,
                       cudaStream_t stream);

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_TOP_LOGITS_H_
