// The end of a row tile in the search kernel: exact thresholds, output and statistics, or the hand-over to the dense
// kernel.
#ifndef TAUSERVE_KERNELS_CUDA_PREFILL_ROW_TILE_FINISH_H_
#define TAUSERVE_KERNELS_CUDA_PREFILL_ROW_TILE_FINISH_H_

#include "kernels/cuda/prefill_row_tile_floors.h"

namespace tauserve::cuda {

template <typename Element, int kDim, int kWarpgroups, entmax::Form kForm>
__device__ void RowTileSearch<Element, kDim, kWarpgroups, kForm>::Finish() {
  if (idle && !dense) return;
  lists.Flush();
  if (!dense) dense = WarpgroupCount(BarrierId(), overflow) > 0;
  if (p.Stats()) AddScored();
  if (p.parts > 1 && !MergeParts()) return;
  if (dense) return LeaveToDense();
  const Slice slice = p.args.slices[block.slice];
  const int first = block.first_row + warpgroup * kTileRows + warp * 16 + lane / 4;
  const entmax::WeightFunction w[2] = {WeightOf(0), WeightOf(1)};
  const float inverse_width[2] = {rows[0].inverse_width, rows[8].inverse_width};
  float scale[2];
  RowCounts counts[2];
  float shift[2] = {0, 0};
  int iterations = 0;
  for (bool again = true; again && iterations < kMaxFinalSteps; iterations++) {
    float step[2];
    lists.NewtonSteps(w, inverse_width, shift, step);
#pragma unroll
    for (int h = 0; h < 2; h++) shift[h] += step[h] * Width(h);
    again = __any_sync(~0u, step[0] > kLastStep || step[1] > kLastStep);
  }
  if (p.args.kept.threshold) KeepSupport(first, slice, shift, inverse_width);
  const int32_t* pages = p.args.page_table + slice.first_page;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const float sum = MakeWeights(lists, h, w[h], inverse_width[h], shift[h], p, pages,
                                  block.kv_head, lane, p.Stats() ? bitmap : nullptr, kAttendedBits);
    const int support = static_cast<int>(QuadSum(static_cast<float>(lists.Count(h))));
    counts[h].live = floor[h] < kDeadFloor;
    counts[h].support = support;
    counts[h].iterations = iterations;
    // A key alone has all weight, however coarsely its threshold is rounded at a huge score.
    counts[h].residual = support == 1 ? 0.0f : fabsf(sum - 1);
    scale[h] = 1 / sum;
  }
  __syncwarp();
  float out[2][kDim / 4];
  GatherValues<kDim, (kDim > 64 ? 1 : 4)>(lists, p.args.values, lane, out);
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int r = first + 8 * h, token = r / p.group;
    if (counts[h].live) {
      const int head = block.kv_head * p.group + r - token * p.group;
      StoreGathered<kDim>(out[h], scale[h], lane,
                          p.args.out + (slice.first_row + token) * p.args.out_stride + head * kDim);
    }
  }
  __syncwarp();
  if (p.Stats()) AddBlockStats(counts);
}

// For the backward pass: thresholds, and the entries with weight, row by row, where all of the warp's find room.
template <typename Element, int kDim, int kWarpgroups, entmax::Form kForm>
__device__ __forceinline__ void RowTileSearch<Element, kDim, kWarpgroups, kForm>::KeepSupport(
    int first_row, const Slice& slice, const float (&shift)[2], const float (&inverse_width)[2]) {
  const KeptSupport& kept = p.args.kept;
  int mine[2], before[2], total[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    mine[h] = 0;
    const int count = lists.Count(h);
    for (int e = 0; e < count; e++) {
      mine[h] +=
          (LoadScore(h == 0 ? lists.bottom + e * Shape::kStep : lists.Top() - e * Shape::kStep) -
           shift[h]) *
              inverse_width[h] >
          0;
    }
    int sum = mine[h];
    for (int o = 1; o < 32; o *= 2) {
      const int below = __shfl_up_sync(~0u, sum, o);
      if (lane >= o) sum += below;
    }
    before[h] = sum - mine[h];
    total[h] = __shfl_sync(~0u, sum, 31);
  }
  unsigned long long base = 0;
  if (lane == 0) base = atomicAdd(kept.used, static_cast<unsigned long long>(total[0] + total[1]));
  base = __shfl_sync(~0u, base, 0);
  const bool fits = static_cast<int64_t>(base) + total[0] + total[1] <= kept.capacity;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int support = static_cast<int>(QuadSum(static_cast<float>(mine[h])));
    int64_t at = static_cast<int64_t>(base) + (h == 0 ? 0 : total[0]) + before[h];
    if (!(floor[h] < kDeadFloor)) continue;
    const int r = first_row + 8 * h, token = r / p.group;
    const int64_t row = static_cast<int64_t>(slice.first_row + token) * p.args.num_heads +
                        block.kv_head * p.group + r - token * p.group;
    if ((lane & 3) == 0) {
      kept.threshold[row] = floor[h] + shift[h];
      kept.count[row] = support;
      kept.first[row] = fits ? at : -1;
    }
    if (!fits) continue;
    const int count = lists.Count(h), first_key = kept.first_key[block.slice];
    for (int e = 0; e < count; e++) {
      const uint2 entry =
          LoadEntry(h == 0 ? lists.bottom + e * Shape::kStep : lists.Top() - e * Shape::kStep);
      const float z = (__uint_as_float(entry.x) - shift[h]) * inverse_width[h];
      if (!(z > 0)) continue;
      kept.entries[at++] =
          KeptEntry::Make(z, first_key + KeyOfEntry(entry.y, entry.x & kPlaceBits, lane));
    }
  }
  __syncwarp();
}

inline constexpr int kMergedTogether = 8;  // candidates of a thread

// Hands this part's candidates over, and, if it is the last of the row tile's, takes all others' in. Whether it is.
template <typename Element, int kDim, int kWarpgroups, entmax::Form kForm>
__device__ __forceinline__ bool RowTileSearch<Element, kDim, kWarpgroups, kForm>::MergeParts() {
  const int thread = threadIdx.x & 127;
  float raised[2] = {0, 0};
  if (!dense) RaiseFloors(raised);  // fewer candidates to hand over
  const int tile = block.index * kWarpgroups + warpgroup;
  ExchangeSlot* slots = reinterpret_cast<ExchangeSlot*>(p.exchange);
  const auto slot_of = [&](int part) -> ExchangeSlot& {
    return slots[(static_cast<int64_t>(block.index) * p.parts + part) * kWarpgroups + warpgroup];
  };
  ExchangeSlot& mine = slot_of(block.part);
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int count = dense ? 0 : lists.Count(h);
    const int before = h == 0 || dense ? 0 : lists.Count(0);
    mine.floor[thread][h] = floor[h];
    mine.count[thread][h] = count;
    for (int e = 0; e < count; e++) {
      mine.entry[before + e][thread] =
          LoadEntry(h == 0 ? lists.bottom + e * Shape::kStep : lists.Top() - e * Shape::kStep);
    }
  }
  __threadfence();
  WarpgroupSync(BarrierId());
  if (thread == 0) {
    control.merged[warpgroup] = atomicAdd(&p.merged[tile], 1 + (dense ? kPartDense : 0));
  }
  WarpgroupSync(BarrierId());
  const int merged = control.merged[warpgroup];
  if (merged % kPartDense != p.parts - 1) {
    dense = false;
    return false;
  }
  __threadfence();
  if (merged >= kPartDense) dense = true;
  float most[2] = {floor[0], floor[1]}, raise[2];
  for (int part = 0; part < p.parts; part++) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      most[h] = fmaxf(most[h], __ldcg(&slot_of(part).floor[thread][h]));
    }
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    raise[h] = floor[h] == kNoFloor ? 0.0f : most[h] - floor[h];
    floor[h] = most[h];
  }
  if (dense) return true;
  lists.Raise(raise);
#pragma unroll 1
  for (int part = 0; part < p.parts; part++) {
    if (part == block.part) continue;
    const ExchangeSlot& other = slot_of(part);
    int before = 0;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int count = __ldcg(&other.count[thread][h]);
      const float lift = __ldcg(&other.floor[thread][h]) - floor[h];
      const int longest = __reduce_max_sync(~0u, count);
#pragma unroll 1
      for (int e = 0; e < longest; e += kMergedTogether) {
        uint2 entry[kMergedTogether];  // all on their way before the first is looked at
#pragma unroll
        for (int i = 0; i < kMergedTogether; i++) {
          entry[i] = make_uint2(0, 0);
          if (e + i < count) entry[i] = __ldcg(&other.entry[before + e + i][thread]);
        }
#pragma unroll
        for (int i = 0; i < kMergedTogether; i++) {
          const float z = __uint_as_float(entry[i].x) + lift;
          if (e + i >= count || !(z > 0)) continue;
          if (lists.HasRoom(1)) {
            StoreEntry(lists.next[h],
                       (__float_as_uint(z) & ~kPlaceBits) | (entry[i].x & kPlaceBits), entry[i].y);
            lists.next[h] += h == 0 ? Shape::kStep : -Shape::kStep;
          } else {
            overflow = true;
          }
        }
      }
      before += count;
    }
    __syncwarp();
    RaiseFloors(raised);  // makes room for the next part's
  }
  dense = WarpgroupCount(BarrierId(), overflow) > 0;
  return true;
}

// Keys scored by this part; what all parts have in common is in AddBlockStats.
template <typename Element, int kDim, int kWarpgroups, entmax::Form kForm>
__device__ __forceinline__ void RowTileSearch<Element, kDim, kWarpgroups, kForm>::AddScored() {
  if (dense) return;  // the dense kernel counts all keys of the row tile
  int64_t scored = 0;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    if ((lane & 3) == 0 && floor[h] < kDeadFloor) {
      scored += static_cast<int64_t>(seen) * kSearchKeys;
    }
  }
  if ((lane & 3) == 0) scored += scored_partly;
  scored = WarpSum(scored);
  if (lane != 0) return;
  AttentionStats* stats = p.Stats() + block.slice;
  AddTo(&stats->keys_scored, scored);
  const int pages = CeilDiv(keys.visible.end, kPageTokens) - keys.visible.begin / kPageTokens;
  if (warp == 0) AddTo(&stats->blocks_scored, min(pages, 2 * seen));
}

template <typename Element, int kDim, int kWarpgroups, entmax::Form kForm>
__device__ __forceinline__ void RowTileSearch<Element, kDim, kWarpgroups, kForm>::LeaveToDense() {
  dense = false;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    if ((lane & 3) != 0) continue;
    p.floors[static_cast<int64_t>(block.index) * Shape::kRows + warpgroup * kTileRows + warp * 16 +
             lane / 4 + 8 * h] = floor[h];
  }
  if ((threadIdx.x & 127) == 0) {
    atomicOr(&p.dense_mask[block.index], 1 << warpgroup);
    atomicAdd(&p.counters->dense_tiles, 1);
  }
}

template <typename Element, int kDim, int kWarpgroups, entmax::Form kForm>
__device__ __forceinline__ void RowTileSearch<Element, kDim, kWarpgroups, kForm>::AddBlockStats(
    const RowCounts (&counts)[2]) {
  AttentionStats* stats = p.Stats() + block.slice;
  AddRowStats(stats, counts, lane);
  int64_t considered = 0;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    if ((lane & 3) != 0 || !counts[h].live) continue;
    const KeyRange range = Visible(rows[8 * h].position);
    considered += range.end - range.begin;
  }
  considered = WarpSum(considered);
  int support = 0;
  if ((lane & 3) == 0) support = counts[0].support + counts[1].support;
  support = WarpSum(support);
  // Pages with a weight: every warp has set its bits before, and clears its share after.
  WarpgroupSync(BarrierId());
  uint32_t* word = bitmap + (threadIdx.x & 127);
  const int attended = WarpSum(__popc(*word));
  *word = 0;
  if (lane == 0) {
    AddTo(&stats->keys_considered, considered);
    AddTo(&stats->kv_bytes_read, static_cast<int64_t>(support) * kDim * 2);
    AddTo(&stats->blocks_attended, attended);
    if (warp == 0) {
      const int pages = CeilDiv(keys.visible.end, kPageTokens) - keys.visible.begin / kPageTokens;
      AddTo(&stats->blocks_considered, pages);
    }
  }
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_PREFILL_ROW_TILE_FINISH_H_
