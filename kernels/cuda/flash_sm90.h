// flash.h's attention on Hopper (sm_90a), FlashAttention-3's way (Shah et al. 2024, arXiv 2407.08608): a producer warp
// copies tiles of keys and values (TMA), warpgroups of 64 query rows multiply them (wgmma) and make the weights of one
// tile while the products of the next and of the one before run.
#ifndef TAUSERVE_KERNELS_CUDA_FLASH_SM90_H_
#define TAUSERVE_KERNELS_CUDA_FLASH_SM90_H_

#include <cstddef>

#include "kernels/cuda/attention_args.h"

namespace tauserve::cuda {

// head_dim up to 128 (64 and 128 are the fast ones) on a device of compute capability 9.0.
bool FlashSm90Supports(const AttentionArgs& args);

// Bytes of AttentionArgs::workspace. The contents need not be kept or set.
size_t FlashSm90WorkspaceBytes();

// The softmax heads of all rows. Not to be captured.
void FlashSm90(const AttentionArgs& args);

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_FLASH_SM90_H_
