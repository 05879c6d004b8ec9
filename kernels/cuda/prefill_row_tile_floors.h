// The floors of a row tile in the search kernel: how they rise, and what follows from them.
#ifndef TAUSERVE_KERNELS_CUDA_PREFILL_ROW_TILE_FLOORS_H_
#define TAUSERVE_KERNELS_CUDA_PREFILL_ROW_TILE_FLOORS_H_

#include "kernels/cuda/prefill_row_tile.h"

namespace tauserve::cuda {

// Floors from this tile's scores alone: maximum - width, then two Newton steps. Scores of rows that had no floor are
// over zero, the others' over their floor.
template <typename Element, int kDim, int kWarpgroups, entmax::Form kForm>
__device__ __forceinline__ void RowTileSearch<Element, kDim, kWarpgroups, kForm>::RaiseInRegisters(
    float (&c)[64]) {
  float raise[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const float inverse_width = rows[8 * h].inverse_width;
    float most = -INFINITY;
#pragma unroll
    for (int j = 0; j < 16; j++) most = fmaxf(most, fmaxf(c[4 * j + 2 * h], c[4 * j + 2 * h + 1]));
    most = QuadMax(most);
    const float width = Width(h);
    float t = most - width;
    if (HasFloor(h)) t = fmaxf(t, 0.0f);
    const bool quartic = kForm == entmax::Form::kGeneral && rows[8 * h].alpha < 1.5f;
    const bool steep = kForm == entmax::Form::kGeneral && rows[8 * h].alpha < 1.25f;
#pragma unroll 1
    for (int step = 0; step < 2; step++) {
      entmax::PowerSums sums;
#pragma unroll
      for (int j = 0; j < 16; j++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const float z = fmaxf(c[4 * j + 2 * h + e] - t, 0.0f) * inverse_width;
          if constexpr (kForm == entmax::Form::kLinear) {
            sums.s0 += z;
            sums.s1 += z > 0;
          } else {
            // The norm falls with the exponent, so 2 serves for exponents up to 2 and 4 up to 4.
            const float cube = quartic ? z * z * z : z;
            sums.s0 += cube * z;
            sums.s1 += cube;
          }
        }
      }
      sums.s0 = QuadSum(sums.s0);
      sums.s1 = QuadSum(sums.s1);
      float norm = kForm == entmax::Form::kLinear ? sums.s0 : sqrtf(sums.s0);
      if (quartic) norm = sqrtf(norm);
      if (norm > 1 && sums.s1 > 0 && !steep) {
        t += (norm - 1) * sums.s0 / (norm * sums.s1) * width;
      }
    }
    raise[h] = most > -INFINITY && floor[h] < kDeadFloor ? t : 0.0f;
    if (floor[h] == kNoFloor && most > -INFINITY) {
      floor[h] = t;
    } else if (HasFloor(h)) {
      floor[h] += raise[h];
    }
    const float by = HasFloor(h) ? raise[h] : INFINITY;
#pragma unroll
    for (int j = 0; j < 16; j++) {
#pragma unroll
      for (int e = 0; e < 2; e++) c[4 * j + 2 * h + e] -= by;
    }
  }
  if (!biased) SetBias(0);
  lists.Raise(raise);
}

// From the lists; adds to `raised` by how much.
template <typename Element, int kDim, int kWarpgroups, entmax::Form kForm>
__device__ __forceinline__ void RowTileSearch<Element, kDim, kWarpgroups, kForm>::RaiseFloors(
    float (&raised)[2]) {
  const entmax::WeightFunction w[2] = {WeightOf(0), WeightOf(1)};
  const float inverse_width[2] = {rows[0].inverse_width, rows[8].inverse_width};
  const float shift[2] = {0, 0};
  float raise[2];
  lists.NewtonSteps(w, inverse_width, shift, raise);
#pragma unroll
  for (int h = 0; h < 2; h++) {
    raise[h] *= Width(h);
    floor[h] += raise[h];
    raised[h] += raise[h];
  }
  if (!biased) SetBias(0);
  lists.Raise(raise);
  const int room = static_cast<int>(lists.next[1] - lists.next[0]) / Shape::kStep + 1;
  reserve = min(kCapacity / 3, __reduce_min_sync(~0u, room) / 2);
  if (HasKeyNorm()) PublishOldestKey();
}

// Keys further back can't reach any floor of the warp: |q| |k| - slope * distance <= floor.
template <typename Element, int kDim, int kWarpgroups, entmax::Form kForm>
__device__ __forceinline__ void
RowTileSearch<Element, kDim, kWarpgroups, kForm>::PublishOldestKey() {
  int oldest = INT32_MAX;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    if (floor[h] >= kDeadFloor) continue;
    const RowConstants row = rows[8 * h];
    const float reach = (row.query_norm * block.key_norm - floor[h]) / row.slope;
    // false for NaN and for slope 0
    const bool bounded = row.slope > 0 && HasFloor(h) && reach < static_cast<float>(row.position);
    oldest = min(oldest,
                 bounded ? row.position - static_cast<int>(fmaxf(reach, 0.0f) * 1.0001f) - 1 : 0);
  }
  oldest = max(__reduce_min_sync(~0u, oldest), 0);
  if (lane == 0) {
    StoreRelaxed(&control.oldest_key[warpgroup * 4 + warp],
                 static_cast<int64_t>(block.sequence) << 32 | oldest);
  }
}

// Uniform in the warpgroup.
template <typename Element, int kDim, int kWarpgroups, entmax::Form kForm>
__device__ __forceinline__ void RowTileSearch<Element, kDim, kWarpgroups, kForm>::ChooseDense() {
  const bool wide = lists.Count(0) + lists.Count(1) > kDenseEntries;
  const int wide_threads = WarpgroupCount(BarrierId(), wide || overflow);
  const int overflows = WarpgroupCount(BarrierId(), overflow);
  if (overflows == 0 && wide_threads <= 64) return;
  dense = true;
  idle = true;
  plain_tiles = 0;
  if ((threadIdx.x & 127) == 0) Stop();
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_PREFILL_ROW_TILE_FLOORS_H_
