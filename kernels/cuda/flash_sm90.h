// flash.h's attention on Hopper (sm_90a), FlashAttention-3's way (Shah et al. 2024, arXiv 2407.08608): a producer warp
// copies tiles of keys and values (TMA), warpgroups of 64 query rows multiply them (wgmma) and make the weights of one
// tile while the products of the next and of the one before run.
#ifndef TAUSERVE_KERNELS_CUDA_FLASH_SM90_H_
#define TAUSERVE_KERNELS_CUDA_FLASH_SM90_H_

#include <cstddef>

#include "kernels/cuda/attention_args.h"

namespace tauserve::cuda {

// Every shape, on a device of compute capability 9.0. head_dim 64, 128 and 256 are the fast ones.
bool FlashSm90Supports();

// Bytes of AttentionArgs::workspace. The contents need not be kept or set.
size_t FlashSm90WorkspaceBytes(const AttentionArgs& args);

// The softmax heads of all rows. Not to be captured.
void FlashSm90(const AttentionArgs& args);

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_FLASH_SM90_H_
