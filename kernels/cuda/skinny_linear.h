// Linear layers of few rows, as decode steps have them: the time is that of reading the weights once. The tensor cores
// take weights as the operand of 16 rows and the batch as that of 8 columns. One block an SM; the weights, as one
// sequence of units of 128 rows x 128 inputs, are shared out evenly, so that a tile of 128 rows may be the work of
// several blocks, whose sums the last of them to arrive adds in the order of the inputs. Which sums are made, and in
// which order, does not depend on the number of rows: neither do the results of a row.
#ifndef TAUSERVE_KERNELS_CUDA_SKINNY_LINEAR_H_
#define TAUSERVE_KERNELS_CUDA_SKINNY_LINEAR_H_

#include <cuda_runtime.h>

#include <cstddef>

#include "kernels/cuda/linear_args.h"

namespace tauserve::cuda {

// With more cuBLASLt is as fast: the sums that blocks exchange grow, and so do the inputs that each of them reads.
inline constexpr int kMaxSkinnyRows = 16;

// Whether the kernel takes this product on the current device.
bool SkinnyLinearSupports(const LinearArgs& args);

// What all launches on one stream of the current device share; zeroed before the first.
size_t SkinnyLinearWorkspaceBytes();

void SkinnyLinear(const LinearArgs& args, void* workspace, cudaStream_t stream);

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_SKINNY_LINEAR_H_
