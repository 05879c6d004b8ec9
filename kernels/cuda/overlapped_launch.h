// Kernels that may begin before the one in front of them on the stream has ended (programmatic dependent launch, sm_90):
// what they read that no kernel writes, weights above all, is on its way by the time that the other is done, and the
// launch itself costs nothing. A kernel launched so calls WaitForEarlierKernels in every thread that goes on to read or
// write what other kernels use; the order of the stream holds from there on. On older GPUs these are ordinary launches.
#ifndef TAUSERVE_KERNELS_CUDA_OVERLAPPED_LAUNCH_H_
#define TAUSERVE_KERNELS_CUDA_OVERLAPPED_LAUNCH_H_

#include <cuda_runtime.h>

#include <utility>

#include "kernels/cuda/cuda_check.h"

namespace tauserve::cuda {

// The next kernel may begin as soon as all blocks have called this or ended, and there is room for it.
__device__ __forceinline__ void AllowLaterKernels() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Returns when all kernels in front have ended and what they wrote is visible.
__device__ __forceinline__ void WaitForEarlierKernels() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

inline bool CanOverlapLaunches() {
  static const bool can = [] {
    int device = 0, major = 0;
    CUDA_CHECK(cudaGetDevice(&device));
    CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    return major >= 9;
  }();
  return can;
}

template <typename... Parameters, typename... Arguments>
void LaunchOverlapped(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                      cudaStream_t stream, Arguments&&... arguments) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = CanOverlapLaunches() ? 1 : 0;
  CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...));
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_OVERLAPPED_LAUNCH_H_
