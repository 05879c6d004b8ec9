// Flash attention (Dao 2023, arXiv 2307.08691) for softmax heads, alpha == 1, of any shape that kernels/attention.h
// allows: one pass over the keys with a running maximum, nothing kept of the scores. Heads with another alpha are left
// alone. flash_sm90.h does the same faster on Hopper for common head dims.
#ifndef TAUSERVE_KERNELS_CUDA_FLASH_H_
#define TAUSERVE_KERNELS_CUDA_FLASH_H_

#include <cstddef>

#include "kernels/cuda/attention_args.h"

namespace tauserve::cuda {

// Bytes of AttentionArgs::workspace with which few rows are spread over the whole device; contents need not be kept or
// set. 0: none are of use.
size_t FlashWorkspaceBytes(const AttentionArgs& args);

// All rows of the step; sm_80 or newer. Rows of q and out are 16-byte aligned. A launch without a workspace may be
// captured, and replayed for slices of other lengths as long as their numbers of tokens are the same.
void Flash(const AttentionArgs& args);

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_FLASH_H_
