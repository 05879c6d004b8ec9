// What the host and the kernels both know of a step's sequences and of a layer's heads.
#ifndef TAUSERVE_KERNELS_CUDA_SLICE_H_
#define TAUSERVE_KERNELS_CUDA_SLICE_H_

#include <cstdint>

namespace tauserve::cuda {

// Constants of one query head.
struct Head {
  float alpha = 1.5f;     // [1, 2]
  float alibi_slope = 0;  // >= 0, in units of a (kernels/attention.h), a distance of one token
};

// One sequence's share of the step, as kernels/attention.h's SequenceSlice; device memory.
struct Slice {
  int32_t first_row = 0;
  int32_t num_tokens = 0;
  int32_t context_tokens = 0;
  int32_t first_page = 0;  // of AttentionArgs::page_table
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_SLICE_H_
