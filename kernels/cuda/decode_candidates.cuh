// Lists of candidates: keys whose scores may lie above the threshold tau. A floor is a proven lower bound of tau, found
// from the candidates' lower bounds by Newton steps on the norm (kernels/entmax/threshold.h); keys below it are dropped
// for good. Orders are those of the keys walked, so results don't depend on timing.
#ifndef TAUSERVE_KERNELS_CUDA_DECODE_CANDIDATES_CUH_
#define TAUSERVE_KERNELS_CUDA_DECODE_CANDIDATES_CUH_

#include "kernels/cuda/decode_tile.cuh"
#include "kernels/entmax/threshold.h"
#include "kernels/entmax/weight.h"

namespace tauserve::cuda::decode {

inline constexpr int kWarps = 8;
inline constexpr int kThreads = 32 * kWarps;
inline constexpr int kWarpEntries = 512;   // candidates of a warp, all columns together
inline constexpr int kSlotEntries = 1024;  // candidates of a piece, all columns together

struct alignas(16) Candidate {
  float upper;     // bounds of the scaled score; the score itself once it is exact
  float lower;     // ... and the weight once tau is known
  uint32_t token;  // page id * kPageTokens + slot
  float bias;      // part of the score
};

// What a piece hands to the merge: of an entmax group its candidates, of a softmax group its partial sums.
struct Slot {
  int count[kDecodeColumns];  // -1: outgrew a list
  float floor[kDecodeColumns];
  int pages_read;
  int keys_scored;
  int unused[14];
  Candidate entries[kSlotEntries];
};

// 2, 4 or 8 lists share the entries.
__device__ __forceinline__ int PaddedColumns(int columns) {
  return columns <= 2 ? 2 : columns <= 4 ? 4 : 8;
}

// Lanes that handle one column together: all 32, or the 8 lanes of equal lane % 4.
template <int kLanes>
struct LaneGroup {
  static_assert(kLanes == 8 || kLanes == 32);
  static constexpr int kFirstOffset = kLanes == 8 ? 4 : 1;

  __device__ static __forceinline__ int Rank() {
    return kLanes == 8 ? (threadIdx.x & 31) >> 2 : threadIdx.x & 31;
  }
  __device__ static __forceinline__ unsigned Mask() {
    return kLanes == 8 ? 0x11111111u << (threadIdx.x & 3) : kFullWarp;
  }
  __device__ static __forceinline__ float Sum(float x) {
#pragma unroll
    for (int o = kFirstOffset; o < 32; o <<= 1) x += __shfl_xor_sync(kFullWarp, x, o);
    return x;
  }
  __device__ static __forceinline__ int Sum(int x) {
#pragma unroll
    for (int o = kFirstOffset; o < 32; o <<= 1) x += __shfl_xor_sync(kFullWarp, x, o);
    return x;
  }
  __device__ static __forceinline__ float Max(float x) {
#pragma unroll
    for (int o = kFirstOffset; o < 32; o <<= 1) x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, o));
    return x;
  }
  // This lane's place among the group's lanes with `keep`, and their number.
  __device__ static __forceinline__ int Place(bool keep, int& total) {
    const unsigned kept = __ballot_sync(kFullWarp, keep) & Mask();
    total = __popc(kept);
    return __popc(kept & ((1u << (threadIdx.x & 31)) - 1));
  }
};

// The floor that the largest score proves: tau >= max - 1. Below the maximum however large it is.
__device__ __forceinline__ float FloorOfMax(float max) {
  return max - fmaxf(1.000001f, 1e-6f * fabsf(max));
}

// One Newton step from floor t < max with the sums at t; rounding is paid for.
__device__ __forceinline__ float RaisedFloor(const entmax::WeightFunction& w,
                                             const entmax::PowerSums& sums, float max, float t) {
  if (!(sums.s0 > 1)) return t;
  const float gap = entmax::NormNewton(w, sums, max - t);
  const float next = max - gap * 1.000002f - 3e-7f * fabsf(max);
  return next > t ? next : t;
}

// Keeps candidates above the floor, in order. Called by whole warps; `count` and `floor` are equal in a group's lanes.
template <int kLanes>
__device__ __forceinline__ void Compact(Candidate* list, int& count, float floor) {
  using Group = LaneGroup<kLanes>;
  const int most = __reduce_max_sync(kFullWarp, count);
  int kept = 0;
  for (int e = Group::Rank(); e - Group::Rank() < most; e += kLanes) {
    Candidate c;
    c.upper = -kInfinity;
    if (e < count) c = list[e];
    const bool keep = c.upper > floor;
    int total;
    const int at = kept + Group::Place(keep, total);
    __syncwarp();
    if (keep) list[at] = c;
    kept += total;
    __syncwarp();
  }
  count = kept;
}

// Raises the floor by up to `steps` Newton steps, then compacts.
template <int kLanes>
__device__ __forceinline__ void RaiseAndCompact(Candidate* list, int& count, float& floor,
                                                float alpha, int steps) {
  using Group = LaneGroup<kLanes>;
  const int most = __reduce_max_sync(kFullWarp, count);
  float max = -kInfinity;
  for (int e = Group::Rank(); e < count; e += kLanes) max = fmaxf(max, list[e].lower);
  max = Group::Max(max);
  if (count > 0) floor = fmaxf(floor, FloorOfMax(max));
  const entmax::WeightFunction w = entmax::MakeWeightFunction(alpha);
  for (int i = 0; i < steps && most > 0; i++) {
    entmax::PowerSums sums;
    for (int e = Group::Rank(); e < count; e += kLanes) {
      entmax::Accumulate(w, list[e].lower - floor, sums);
    }
    sums.s0 = Group::Sum(sums.s0);
    sums.s1 = Group::Sum(sums.s1);
    if (count > 0) floor = RaisedFloor(w, sums, max, floor);
  }
  Compact<kLanes>(list, count, floor);
}

}  // namespace tauserve::cuda::decode

#endif  // TAUSERVE_KERNELS_CUDA_DECODE_CANDIDATES_CUH_
