// The candidates of a thread's two query rows, in shared memory: row 0's list grows up from the bottom of the thread's
// entries and row 1's down from the top, so that they share the room. Four threads (a quad) hold parts of the same rows.
//
// An entry is the score above the row's floor, whose lowest 2 bits (2^-21 of it) are replaced by the accumulator's
// place in its group of 4, and the group's number (tile * 16 + group). Raising the floor by d subtracts d from all
// entries and drops what falls to zero. Floors rise by Newton's method on the norm (kernels/entmax/threshold.h),
// which from a lower bound never passes the threshold.
#ifndef TAUSERVE_KERNELS_CUDA_CANDIDATE_LISTS_H_
#define TAUSERVE_KERNELS_CUDA_CANDIDATE_LISTS_H_

#include <cstdint>

#include "kernels/cuda/prefill_params.h"
#include "kernels/entmax/threshold.h"

namespace tauserve::cuda {

inline constexpr uint32_t kPlaceBits = 3;  // of an entry's score: which accumulator of its group

__device__ __forceinline__ uint2 LoadEntry(uint32_t at) {
  uint2 e;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(e.x), "=r"(e.y) : "r"(at));
  return e;
}
__device__ __forceinline__ float LoadScore(uint32_t at) {
  float z;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(z) : "r"(at));
  return z;
}
__device__ __forceinline__ void StoreEntry(uint32_t at, uint32_t x, uint32_t y) {
  asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(at), "r"(x), "r"(y) : "memory");
}

// kStep: bytes between a thread's entries.
template <int kStep, int kCapacity>
struct CandidateLists {
  static constexpr int kEntryStep = kStep;
  uint32_t bottom;   // shared address of the thread's first entry
  uint32_t next[2];  // where the next entry of a row goes

  __device__ __forceinline__ uint32_t Top() const { return bottom + (kCapacity - 1) * kStep; }
  __device__ __forceinline__ void Clear() {
    next[0] = bottom;
    next[1] = Top();
  }
  __device__ __forceinline__ uint32_t BytesOf(int h) const {
    return h == 0 ? next[0] - bottom : Top() - next[1];
  }
  __device__ __forceinline__ int Count(int h) const { return static_cast<int>(BytesOf(h) / kStep); }
  __device__ __forceinline__ bool HasRoom(int entries) const {
    return next[0] + entries * kStep <= next[1] + kStep;
  }
  // Bytes of the longest list in the warp.
  __device__ __forceinline__ uint32_t LongestBytes() const {
    return __reduce_max_sync(~0u, max(BytesOf(0), BytesOf(1)));
  }

  // Row kRow takes accumulator `c` as `place` of `group` if its sign bit is clear. No branch, no check of room.
  template <int kRow>
  __device__ __forceinline__ void PushIfPositive(float c, uint32_t place, uint32_t group) {
    asm volatile(
        "{\n.reg .pred p;\n.reg .b32 entry;\nsetp.ge.s32 p, %1, 0;\n"
        "lop3.b32 entry, %1, %5, %2, 0xEA;\n@p st.shared.v2.u32 [%0], {entry, %3};\n"
        "@p add.u32 %0, %0, %4;\n}"
        : "+r"(next[kRow])
        : "r"(__float_as_uint(c)), "r"(place), "r"(group), "n"(kRow == 0 ? kStep : -kStep),
          "r"(~kPlaceBits)
        : "memory");
  }

  // Subtracts `raise` (score units) from the entries of both rows and keeps the positive ones.
  __device__ __forceinline__ void Raise(const float (&raise)[2]) {
    const uint32_t longest = LongestBytes();
    const uint32_t bytes[2] = {BytesOf(0), BytesOf(1)};
    Clear();
#pragma unroll 4
    for (uint32_t e = 0; e < longest; e += kStep) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        if (e >= bytes[h]) continue;
        const uint2 entry = LoadEntry(h == 0 ? bottom + e : Top() - e);
        const float z = __uint_as_float(entry.x) - raise[h];
        if (!(z > 0)) continue;
        StoreEntry(next[h], (__float_as_uint(z) & ~kPlaceBits) | (entry.x & kPlaceBits), entry.y);
        next[h] += h == 0 ? kStep : -kStep;
      }
    }
  }

  // A Newton step: how far above `shift` (score units over the floor) the rows' thresholds lie at least, in widths.
  __device__ __forceinline__ void NewtonSteps(const entmax::WeightFunction (&w)[2],
                                              const float (&inverse_width)[2],
                                              const float (&shift)[2], float (&step)[2]) const {
    const uint32_t longest = LongestBytes();
    const uint32_t bytes[2] = {BytesOf(0), BytesOf(1)};
    entmax::PowerSums sums[2];
#pragma unroll 4
    for (uint32_t e = 0; e < longest; e += kStep) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float z = 0;
        if (e < bytes[h]) z = LoadScore(h == 0 ? bottom + e : Top() - e) - shift[h];
        entmax::Accumulate(w[h], fmaxf(z, 0.0f) * inverse_width[h], sums[h]);
      }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
      sums[h].s0 = QuadSum(sums[h].s0);
      sums[h].s1 = QuadSum(sums[h].s1);
      step[h] = sums[h].s0 > 1 ? -entmax::NormNewton(w[h], sums[h], 0.0f) : 0.0f;
    }
  }
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_CANDIDATE_LISTS_H_
