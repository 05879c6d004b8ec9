// The candidates of a thread's two query rows, in shared memory: row 0's list grows up from the bottom of the thread's
// entries and row 1's down from the top, so that they share the room. Four threads (a quad) hold parts of the same rows.
//
// An entry is the score above the row's floor, whose lowest 2 bits (2^-21 of it) are replaced by the accumulator's
// place in its group of 4, and the group's number (tile * 16 + group). Raising the floor by d subtracts d from all
// entries and drops what falls to zero. Floors rise by Newton's method on the norm (kernels/entmax/threshold.h),
// which from a lower bound never passes the threshold.
//
// Where candidates are rare, picking them out of the accumulators at once costs a warp more than the search itself. A
// thread then sets aside the 8 accumulators around a candidate as a record, between its two lists, and Flush picks them
// out when some thread of the warp has no room left.
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
  static constexpr int kRecordEntries =
      5;  // an entry's room four times for scores, then for the group
  // Flush takes records from below, so row 0's new entries follow it; row 1's need room beside the records.
  static constexpr int kRowRecordEntries = kRecordEntries + 4;
  uint32_t bottom;        // shared address of the thread's first entry
  uint32_t next[2];       // where the next entry of a row goes
  uint32_t next_record;   // records start at next[0]; none when this is equal
  uint32_t record_limit;  // where they end at the latest, so that they can be flushed

  __device__ __forceinline__ uint32_t Top() const { return bottom + (kCapacity - 1) * kStep; }
  __device__ __forceinline__ void Clear() {
    next[0] = bottom;
    next[1] = Top();
    StartRecords();
  }
  __device__ __forceinline__ uint32_t BytesOf(int h) const {
    return h == 0 ? next[0] - bottom : Top() - next[1];
  }
  __device__ __forceinline__ int Count(int h) const { return static_cast<int>(BytesOf(h) / kStep); }
  __device__ __forceinline__ bool HasRoom(int entries) const {
    return next[0] + entries * kStep <= next[1] + kStep;
  }
  // With no records there, after every change of the lists.
  __device__ __forceinline__ void StartRecords() {
    next_record = next[0];
    record_limit = next[0] + (next[1] + kStep - next[0]) * kRecordEntries / kRowRecordEntries;
  }
  __device__ __forceinline__ bool HasRoomForRecords(int records) const {
    return next_record + records * (kRecordEntries * kStep) <= record_limit;
  }
  // Sets aside 8 accumulators each of 4 pairs of groups from `group` on, those whose byte of `take` has low bits set. No branch. All
  // places are known before the first store: to move a place on in the register that a store still reads would wait for it.
  __device__ __forceinline__ void SetAside(const float* c, uint32_t group, uint32_t take) {
    asm volatile(
        "{\n.reg .pred p<4>;\n.reg .u32 b<4>, s<4>, a<4>;\n"
        "and.b32 b0, %1, 0xf;\nand.b32 b1, %1, 0xf00;\nand.b32 b2, %1, 0xf0000;\nand.b32 b3, %1, "
        "0xf000000;\n"
        "setp.ne.u32 p0, b0, 0;\nsetp.ne.u32 p1, b1, 0;\n"
        "setp.ne.u32 p2, b2, 0;\nsetp.ne.u32 p3, b3, 0;\n"
        "selp.u32 s0, %42, 0, p0;\nselp.u32 s1, %42, 0, p1;\n"
        "selp.u32 s2, %42, 0, p2;\nselp.u32 s3, %42, 0, p3;\n"
        "mov.u32 a0, %0;\nadd.u32 a1, a0, s0;\nadd.u32 a2, a1, s1;\nadd.u32 a3, a2, s2;\n"
        "add.u32 %0, a3, s3;\n"
        "@p0 st.shared.v2.f32 [a0], {%2, %3};\n@p0 st.shared.v2.f32 [a0 + %38], {%4, %5};\n"
        "@p0 st.shared.v2.f32 [a0 + %39], {%6, %7};\n@p0 st.shared.v2.f32 [a0 + %40], {%8, %9};\n"
        "@p0 st.shared.u32 [a0 + %41], %34;\n"
        "@p1 st.shared.v2.f32 [a1], {%10, %11};\n@p1 st.shared.v2.f32 [a1 + %38], {%12, %13};\n"
        "@p1 st.shared.v2.f32 [a1 + %39], {%14, %15};\n@p1 st.shared.v2.f32 [a1 + %40], {%16, "
        "%17};\n"
        "@p1 st.shared.u32 [a1 + %41], %35;\n"
        "@p2 st.shared.v2.f32 [a2], {%18, %19};\n@p2 st.shared.v2.f32 [a2 + %38], {%20, %21};\n"
        "@p2 st.shared.v2.f32 [a2 + %39], {%22, %23};\n@p2 st.shared.v2.f32 [a2 + %40], {%24, "
        "%25};\n"
        "@p2 st.shared.u32 [a2 + %41], %36;\n"
        "@p3 st.shared.v2.f32 [a3], {%26, %27};\n@p3 st.shared.v2.f32 [a3 + %38], {%28, %29};\n"
        "@p3 st.shared.v2.f32 [a3 + %39], {%30, %31};\n@p3 st.shared.v2.f32 [a3 + %40], {%32, "
        "%33};\n"
        "@p3 st.shared.u32 [a3 + %41], %37;\n"
        "}"
        : "+r"(next_record)
        : "r"(take), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]), "f"(c[4]), "f"(c[5]), "f"(c[6]),
          "f"(c[7]), "f"(c[8]), "f"(c[9]), "f"(c[10]), "f"(c[11]), "f"(c[12]), "f"(c[13]),
          "f"(c[14]), "f"(c[15]), "f"(c[16]), "f"(c[17]), "f"(c[18]), "f"(c[19]), "f"(c[20]),
          "f"(c[21]), "f"(c[22]), "f"(c[23]), "f"(c[24]), "f"(c[25]), "f"(c[26]), "f"(c[27]),
          "f"(c[28]), "f"(c[29]), "f"(c[30]), "f"(c[31]), "r"(group), "r"(group + 2),
          "r"(group + 4), "r"(group + 6), "n"(kStep), "n"(2 * kStep), "n"(3 * kStep),
          "n"(4 * kStep), "n"(kRecordEntries * kStep)
        : "memory");
  }
  // Moves the records' candidates into the lists.
  __device__ __forceinline__ void Flush() {
    const uint32_t first = next[0], end = next_record;
    const uint32_t longest = __reduce_max_sync(~0u, end - first);
#pragma unroll 1
    for (uint32_t at = first; at - first < longest; at += kRecordEntries * kStep) {
      if (at >= end) continue;
      uint2 pair[4];
#pragma unroll
      for (int i = 0; i < 4; i++) pair[i] = LoadEntry(at + i * kStep);
      const uint32_t group = LoadEntry(at + 4 * kStep).x;
      const float x[8] = {__uint_as_float(pair[0].x), __uint_as_float(pair[0].y),
                          __uint_as_float(pair[1].x), __uint_as_float(pair[1].y),
                          __uint_as_float(pair[2].x), __uint_as_float(pair[2].y),
                          __uint_as_float(pair[3].x), __uint_as_float(pair[3].y)};
      PushPositive(x, group);
    }
    __syncwarp();
    StartRecords();
  }

  // Bytes of the longest list in the warp.
  __device__ __forceinline__ uint32_t LongestBytes() const {
    return __reduce_max_sync(~0u, max(BytesOf(0), BytesOf(1)));
  }

  // The lists take those of 8 accumulators, of groups `group` and `group` + 1, whose sign bit is clear. No branch, no
  // check of room.
  __device__ __forceinline__ void PushPositive(const float* c, uint32_t group) {
    PushPositive<0>(c[0], c[1], c[4], c[5], group);
    PushPositive<1>(c[2], c[3], c[6], c[7], group);
  }
  // Of one row. Places first, as in SetAside.
  template <int kRow>
  __device__ __forceinline__ void PushPositive(float c0, float c1, float c2, float c3,
                                               uint32_t group) {
    asm volatile(
        "{\n.reg .pred p<4>;\n.reg .u32 e<4>, s<4>, a<4>;\n"
        "setp.ge.s32 p0, %1, 0;\nsetp.ge.s32 p1, %2, 0;\n"
        "setp.ge.s32 p2, %3, 0;\nsetp.ge.s32 p3, %4, 0;\n"
        "selp.u32 s0, %7, 0, p0;\nselp.u32 s1, %7, 0, p1;\n"
        "selp.u32 s2, %7, 0, p2;\nselp.u32 s3, %7, 0, p3;\n"
        "lop3.b32 e0, %1, %8, %9, 0xEA;\nlop3.b32 e1, %2, %8, %10, 0xEA;\n"
        "lop3.b32 e2, %3, %8, %9, 0xEA;\nlop3.b32 e3, %4, %8, %10, 0xEA;\n"
        "mov.u32 a0, %0;\nadd.u32 a1, a0, s0;\nadd.u32 a2, a1, s1;\nadd.u32 a3, a2, s2;\n"
        "add.u32 %0, a3, s3;\n"
        "@p0 st.shared.v2.u32 [a0], {e0, %5};\n@p1 st.shared.v2.u32 [a1], {e1, %5};\n"
        "@p2 st.shared.v2.u32 [a2], {e2, %6};\n@p3 st.shared.v2.u32 [a3], {e3, %6};\n}"
        : "+r"(next[kRow])
        : "r"(__float_as_uint(c0)), "r"(__float_as_uint(c1)), "r"(__float_as_uint(c2)),
          "r"(__float_as_uint(c3)), "r"(group), "r"(group + 1), "n"(kRow == 0 ? kStep : -kStep),
          "r"(~kPlaceBits), "n"(2 * kRow), "n"(2 * kRow + 1)
        : "memory");
  }

  // Subtracts `raise` (score units) from the entries of both rows and keeps the positive ones. There are no records.
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
    StartRecords();
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
