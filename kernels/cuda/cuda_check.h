// CUDA_CHECK(call): keeps the first error of the calling thread, with the place it came from, and is true where there was
// none. Launches are followed by CUDA_CHECK(cudaGetLastError()). The backend looks once a step and turns what it finds
// into its status: a fault of the device ends requests, not the process.
#ifndef TAUSERVE_KERNELS_CUDA_CUDA_CHECK_H_
#define TAUSERVE_KERNELS_CUDA_CUDA_CHECK_H_

#include <cuda_runtime.h>

namespace tauserve::cuda {

struct CudaError {
  cudaError_t code = cudaSuccess;
  const char* call = "";
  const char* file = "";
  int line = 0;
};

inline CudaError& FirstCudaError() {
  static thread_local CudaError error;
  return error;
}

inline bool KeepCudaError(cudaError_t code, const char* call, const char* file, int line) {
  if (code == cudaSuccess) return true;
  CudaError& first = FirstCudaError();
  if (first.code == cudaSuccess) first = {code, call, file, line};
  return false;
}

}  // namespace tauserve::cuda

#define CUDA_CHECK(call) ::tauserve::cuda::KeepCudaError((call), #call, __FILE__, __LINE__)

#endif  // TAUSERVE_KERNELS_CUDA_CUDA_CHECK_H_
