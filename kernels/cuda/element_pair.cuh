// Pairs of 16-bit elements in 32 bits, the first one low, as kernels load and store them and tensor cores take them. Serving's
// tensors are bfloat16; training's are bfloat16 or float16.
#ifndef TAUSERVE_KERNELS_CUDA_ELEMENT_PAIR_CUH_
#define TAUSERVE_KERNELS_CUDA_ELEMENT_PAIR_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace tauserve::cuda {

template <typename Element>
inline constexpr bool kIsFloat16 = std::is_same_v<Element, __half>;

// Attention weights, at most 1, are multiplied by this before they are rounded to elements for a product, whose sums are divided
// by it. Float16 alone would keep few bits of a weight below 2^-14, as all of a long row's are, and nothing below 2^-25. Scaled, a
// weight errs by 2^-12 of itself or by 2^-40: those of the most keys that a batch may have (kMostKeptKeys) by 2^-20 together, and
// one of them, times the largest float16, by no more than the smallest float16.
template <typename Element>
inline constexpr float kWeightScale = kIsFloat16<Element> ? 32768.0f : 1.0f;

template <typename Element = __nv_bfloat16>
__device__ __forceinline__ uint32_t PackPair(float low, float high) {
  if constexpr (kIsFloat16<Element>) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  } else {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
}

// Numbers beyond float16's range become its largest: a score within rounding of its row's threshold may have a gradient that the
// row's bound does not know.
template <typename Element>
__device__ __forceinline__ uint32_t PackFinitePair(float low, float high) {
  if constexpr (kIsFloat16<Element>) {
    uint32_t pair;
    asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
  } else {
    return PackPair(low, high);
  }
}

// The low and the high element.
template <typename Element>
__device__ __forceinline__ float LowOf(uint32_t pair) {
  if constexpr (kIsFloat16<Element>) {
    return __low2float(*reinterpret_cast<const __half2*>(&pair));
  } else {
    return __uint_as_float(pair << 16);
  }
}
template <typename Element>
__device__ __forceinline__ float HighOf(uint32_t pair) {
  if constexpr (kIsFloat16<Element>) {
    return __high2float(*reinterpret_cast<const __half2*>(&pair));
  } else {
    return __uint_as_float(pair & 0xffff0000u);
  }
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_ELEMENT_PAIR_CUH_
