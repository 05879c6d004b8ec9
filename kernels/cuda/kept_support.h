// What a forward pass keeps of its rows for a backward pass (backward.h): the thresholds, and the keys with weight.
#ifndef TAUSERVE_KERNELS_CUDA_KEPT_SUPPORT_H_
#define TAUSERVE_KERNELS_CUDA_KEPT_SUPPORT_H_

#include <cstdint>

namespace tauserve::cuda {

// A key with weight, in 32 bits: the key among those of all sequences, and the scaled score z over the row's threshold
// (kernels/entmax/weight.h; the weight is z^(1 / (alpha - 1))) with bfloat16's precision. No z counts as less than 2^-15.
struct KeptEntry {
  static constexpr int kKeyBits = 20;
  static constexpr int kDropped =
      23 - 8;  // of a float's bits: 8 of the fraction stay, and 4 of the exponent
  static constexpr uint32_t kLeast = (127u - 15) << 23;

  uint32_t bits;

#ifdef __CUDACC__
  // z in (0, 1].
  static __device__ __forceinline__ KeptEntry Make(float z, int key) {
    const uint32_t x = max(__float_as_uint(z), kLeast) - kLeast + (1u << (kDropped - 1));
    return {x >> kDropped << kKeyBits | static_cast<uint32_t>(key)};
  }
  __device__ __forceinline__ int Key() const { return bits & ((1u << kKeyBits) - 1); }
  __device__ __forceinline__ float Z() const {
    return __uint_as_float((bits >> kKeyBits << kDropped) + kLeast);
  }
#endif
};
inline constexpr int kMostKeptKeys = 1 << KeptEntry::kKeyBits;  // of a batch

// Device memory of the caller. A row is (token of the batch, query head): index token * num_heads + head.
struct KeptSupport {
  float* threshold = nullptr;    // [rows], of q.k + bias / scale; nullptr: nothing is kept
  int32_t* count = nullptr;      // [rows], keys with weight
  int64_t* first = nullptr;      // [rows], the row's place in `entries`; -1: they are not kept
  KeptEntry* entries = nullptr;  // [capacity]; rows for which no room is left aren't kept
  int64_t capacity = 0;
  unsigned long long* used = nullptr;  // zero before; may end above capacity
  const int32_t* first_key = nullptr;  // [num_slices], of a slice's sequence
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_KEPT_SUPPORT_H_
