// More dynamic shared memory for a kernel than the 48 KB of every launch.
#ifndef TAUSERVE_KERNELS_CUDA_ALLOW_SHARED_BYTES_H_
#define TAUSERVE_KERNELS_CUDA_ALLOW_SHARED_BYTES_H_

#include <array>
#include <atomic>

#include "kernels/cuda/cuda_check.h"

namespace tauserve::cuda {

inline constexpr int kMaxDevices = 64;

// Before a launch; asks CUDA once for each kernel and device. `bytes` are always the same for a kernel.
template <auto kKernel>
void AllowSharedBytes(int bytes) {
  static std::array<std::atomic<bool>, kMaxDevices> allowed{};
  int device = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  if (allowed[device]) return;
  CUDA_CHECK(cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  allowed[device] = true;
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_ALLOW_SHARED_BYTES_H_
