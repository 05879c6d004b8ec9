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
  int count[kDecodeColumns];    // -1: outgrew a list
  float floor[kDecodeColumns];  // of a softmax group, the maximum
  float sum[kDecodeColumns];    // of a softmax group
  int pages_read;
  int keys_scored;
  int unused[6];
  Candidate entries[kSlotEntries];
};

inline constexpr int kMaxListEntries = 128;  // of one column of a warp
inline constexpr int kLaneEntries = 16;      // of a list, a lane that raises its floor

// 2, 4 or 8 lists share the entries.
__device__ __forceinline__ int PaddedColumns(int columns) {
  return columns <= 2 ? 2 : columns <= 4 ? 4 : 8;
}

// Lanes that handle one column together: all 32, or the 8 lanes of equal lane % 4.
template <int kLanes>
struct LaneGroup {
  static_assert(kLanes == 8 || kLanes == 32);
  static constexpr int kFirstOffset = kLanes == 8 ? 4 : 1;

  __device__ static __forceinline__ float Sum(float x) {
#pragma unroll
    for (int o = kFirstOffset; o < 32; o <<= 1) x += __shfl_xor_sync(kFullWarp, x, o);
    return x;
  }
  __device__ static __forceinline__ int Sum(int x) {
    if constexpr (kLanes == 32) {
      return __reduce_add_sync(kFullWarp, x);
    } else {
#pragma unroll
      for (int o = kFirstOffset; o < 32; o <<= 1) x += __shfl_xor_sync(kFullWarp, x, o);
      return x;
    }
  }
  __device__ static __forceinline__ float Max(float x) {
    if constexpr (kLanes == 32) {  // in one instruction, on integers ordered as the floats are
      const int bits = __float_as_int(x);
      const int most = __reduce_max_sync(kFullWarp, bits < 0 ? bits ^ 0x7fffffff : bits);
      return __int_as_float(most < 0 ? most ^ 0x7fffffff : most);
    } else {
#pragma unroll
      for (int o = kFirstOffset; o < 32; o <<= 1) x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, o));
      return x;
    }
  }
};

// This lane's place among the warp's lanes with `keep`, and their number.
__device__ __forceinline__ int PlaceInWarp(bool keep, int& total) {
  const unsigned kept = __ballot_sync(kFullWarp, keep);
  total = __popc(kept);
  return __popc(kept & ((1u << (threadIdx.x & 31)) - 1));
}

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

struct RaisedList {
  int count;
  float floor;
};

// Sums of z and of z^2 or of 1 where z > 0, as far as a Newton step on the norm needs them.
__device__ __forceinline__ void AddPositive(const entmax::WeightFunction& w, float z,
                                            entmax::PowerSums& sums) {
  z = fmaxf(z, 0.0f);
  float p1 = w.form == entmax::Form::kSquare ? z : z > 0 ? 1.0f : 0.0f;
  if (w.form == entmax::Form::kGeneral && z > 0) p1 = entmax::Power(z, w.exponent - 1);
  sums.s0 += p1 * z;
  sums.s1 += p1;
}

// Raises the floor of a list by up to `steps` Newton steps and keeps what is above it, in order. By a whole warp.
__device__ __noinline__ RaisedList RaiseList(Candidate* list, int count, float floor, float alpha,
                                             int steps) {
  using Warp = LaneGroup<32>;
  const int lane = threadIdx.x & 31;
  const entmax::WeightFunction w = entmax::MakeWeightFunction(alpha);
  float max = -kInfinity;
#pragma unroll 1
  for (int e = lane; e < count; e += 32) max = fmaxf(max, list[e].lower);
  max = Warp::Max(max);
  if (count > 0) floor = fmaxf(floor, FloorOfMax(max));
#pragma unroll 1
  for (int i = 0; i < steps; i++) {
    entmax::PowerSums sums;
#pragma unroll 1
    for (int e = lane; e < count; e += 32) AddPositive(w, list[e].lower - floor, sums);
    sums.s0 = Warp::Sum(sums.s0);
    sums.s1 = Warp::Sum(sums.s1);
    floor = RaisedFloor(w, sums, max, floor);
  }
  int kept = 0;
#pragma unroll 1
  for (int first = 0; first < count; first += 32) {
    Candidate c;
    c.upper = -kInfinity;
    if (first + lane < count) c = list[first + lane];
    const bool keep = c.upper > floor;
    int total;
    const int at = kept + PlaceInWarp(keep, total);
    __syncwarp();
    if (keep) list[at] = c;
    kept += total;
    __syncwarp();
  }
  return {kept, floor};
}

// The same for the lists of all columns at once, list c at lists + c * capacity: 32 / columns lanes a list, which keep its
// lower bounds in registers. `count`, `floor` and `alpha` are of the lane's list.
__device__ __noinline__ RaisedList RaiseLists(Candidate* lists, int columns, int capacity,
                                              int count, float floor, float alpha) {
  constexpr int kSteps = 3;
  const int lane = threadIdx.x & 31;
  const int lanes = 32 / columns, rank = lane & (lanes - 1);
  const unsigned group = (lanes == 32 ? kFullWarp : (1u << lanes) - 1) << (lane & ~(lanes - 1));
  Candidate* list = lists + lane / lanes * capacity;
  const entmax::WeightFunction w = entmax::MakeWeightFunction(alpha);
  float lower[kLaneEntries];
  float max = -kInfinity;
#pragma unroll
  for (int k = 0; k < kLaneEntries; k++) {
    const int e = k * lanes + rank;
    lower[k] = e < count ? list[e].lower : -kInfinity;
    max = fmaxf(max, lower[k]);
  }
#pragma unroll 1
  for (int o = 1; o < lanes; o <<= 1) max = fmaxf(max, __shfl_xor_sync(kFullWarp, max, o));
  if (count > 0) floor = fmaxf(floor, FloorOfMax(max));
#pragma unroll 1
  for (int i = 0; i < kSteps; i++) {
    entmax::PowerSums sums;
#pragma unroll
    for (int k = 0; k < kLaneEntries; k++) AddPositive(w, lower[k] - floor, sums);
#pragma unroll 1
    for (int o = 1; o < lanes; o <<= 1) {
      sums.s0 += __shfl_xor_sync(kFullWarp, sums.s0, o);
      sums.s1 += __shfl_xor_sync(kFullWarp, sums.s1, o);
    }
    if (count > 0) floor = RaisedFloor(w, sums, max, floor);
  }
  const int most = __reduce_max_sync(kFullWarp, count);
  int kept = 0;
#pragma unroll 1
  for (int first = 0; first < most; first += lanes) {
    Candidate c;
    c.upper = -kInfinity;
    if (first + rank < count) c = list[first + rank];
    const bool keep = c.upper > floor;
    const unsigned mask = __ballot_sync(kFullWarp, keep) & group;
    __syncwarp();
    if (keep) list[kept + __popc(mask & ((1u << lane) - 1))] = c;
    kept += __popc(mask);
    __syncwarp();
  }
  return {kept, floor};
}

}  // namespace tauserve::cuda::decode

#endif  // TAUSERVE_KERNELS_CUDA_DECODE_CANDIDATES_CUH_
