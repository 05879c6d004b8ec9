// By what power of two dS is multiplied before it is rounded to float16 for a dense product: unlike bfloat16 that has too few
// exponents for dP = dO V^T of losses that were scaled, large or small. The largest dS of a row, or of all rows that a sum has
// seen, comes to 2^14 or just under 2^15; those less than 2^-28 of it lose bits, and nothing that is more than 2^-39 of it is lost.
#ifndef TAUSERVE_KERNELS_CUDA_GRADIENT_SCALE_CUH_
#define TAUSERVE_KERNELS_CUDA_GRADIENT_SCALE_CUH_

#include <cstdint>

namespace tauserve::cuda {

inline constexpr float kMostGradientScale = 0x1p126f;  // its inverse is a normal number

// `bound`: not negative, above every |dS|; infinite bounds have a scale, too.
__device__ __forceinline__ float GradientScale(float bound) {
  const int exponent = static_cast<int>(__float_as_uint(bound) >> 23);
  return __int_as_float(min(127 + 14 + 127 - exponent, 127 + 126) << 23);
}
__device__ __forceinline__ float InverseOfPowerOf2(float x) {
  return __uint_as_float((254u << 23) - __float_as_uint(x));
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_GRADIENT_SCALE_CUH_
