#ifndef TAUSERVE_KERNELS_CUDA_ACTIVATION_CUH_
#define TAUSERVE_KERNELS_CUDA_ACTIVATION_CUH_

#include "kernels/layer_specs.h"

namespace tauserve::cuda {

__device__ __forceinline__ float Activated(Activation activation, float x) {
  if (activation == Activation::kSilu) return x / (1 + __expf(-x));
  constexpr float kRoot = 0.7978845608f;  // sqrt(2 / pi)
  return 0.5f * x * (1 + tanhf(kRoot * (x + 0.044715f * x * x * x)));
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_ACTIVATION_CUH_
