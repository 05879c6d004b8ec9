// The one way to call CUDA where failure can only be a bug or a broken device: prints what failed, and aborts.
#ifndef TAUSERVE_KERNELS_CUDA_CUDA_CHECK_H_
#define TAUSERVE_KERNELS_CUDA_CUDA_CHECK_H_

#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>

#define CUDA_CHECK(expression)                                                 \
  do {                                                                         \
    const cudaError_t cuda_check_error = (expression);                         \
    if (cuda_check_error != cudaSuccess) {                                     \
      std::fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #expression, \
                   cudaGetErrorString(cuda_check_error));                      \
      std::abort();                                                            \
    }                                                                          \
  } while (0)

#endif  // TAUSERVE_KERNELS_CUDA_CUDA_CHECK_H_
