// The merge of an entmax group, by the block whose piece came last: candidates of all pieces above the best floor, exact
// scores where they are bounds so far, tau, and the weighted sum of the support's values.
#ifndef TAUSERVE_KERNELS_CUDA_DECODE_MERGE_CUH_
#define TAUSERVE_KERNELS_CUDA_DECODE_MERGE_CUH_

#include "kernels/cuda/decode_block.cuh"
#include "kernels/cuda/decode_rows.cuh"

namespace tauserve::cuda::decode {

// Warp `column` collects its column's candidates. Returns whether they fit.
__device__ __forceinline__ bool Collect(const Slot* slots, int pieces, int column,
                                        int slot_capacity, int* prefix, Candidate* list,
                                        int capacity, int& count, float& floor) {
  const int lane = threadIdx.x & 31;
  bool wide = false;
  int total = 0;
  floor = -kInfinity;
#pragma unroll 1
  for (int first = 0; first < pieces; first += 32) {
    int n = 0;
    if (first + lane < pieces) {
      n = __ldcg(&slots[first + lane].count[column]);
      floor = fmaxf(floor, __ldcg(&slots[first + lane].floor[column]));
    }
    wide |= n < 0;
    int sum = n;
#pragma unroll
    for (int o = 1; o < 32; o <<= 1) {
      const int below = __shfl_up_sync(kFullWarp, sum, o);
      if (lane >= o) sum += below;
    }
    if (first + lane < pieces) prefix[first + lane] = total + sum - n;
    total += __shfl_sync(kFullWarp, sum, 31);
  }
  if (lane == 0) prefix[pieces] = total;
  floor = LaneGroup<32>::Max(floor);
  __syncwarp();
  count = 0;
  if (__any_sync(kFullWarp, wide)) return false;
  constexpr int kUnroll = 4;
#pragma unroll 1
  for (int first = 0; first < total; first += 32 * kUnroll) {
    uint4 x[kUnroll];
#pragma unroll
    for (int k = 0; k < kUnroll; k++) {
      const int e = first + k * 32 + lane;
      x[k].x = __float_as_uint(-kInfinity);
      if (e < total) {
        int lo = 0, hi = pieces;  // prefix[lo] <= e < prefix[hi]
        while (hi - lo > 1) {
          const int mid = (lo + hi) / 2;
          (prefix[mid] <= e ? lo : hi) = mid;
        }
        x[k] = __ldcg(reinterpret_cast<const uint4*>(
            &slots[lo].entries[column * slot_capacity + e - prefix[lo]]));
      }
    }
#pragma unroll
    for (int k = 0; k < kUnroll; k++) {
      const bool keep = __uint_as_float(x[k].x) > floor;
      int kept;
      const int at = count + LaneGroup<32>::Place(keep, kept);
      if (count + kept > capacity) return false;
      if (keep) *reinterpret_cast<uint4*>(&list[at]) = x[k];
      count += kept;
    }
  }
  __syncwarp();
  return true;
}

// Tau of exact scores in `upper`, by one warp: Newton steps on the norm from a floor, then guarded steps. Weights that sum
// to 1 go to `lower`; what has none is dropped.
__device__ __forceinline__ void SolveColumn(int column, BlockShared& shared, Candidate* list,
                                            int count, float floor) {
  using Warp = LaneGroup<32>;
  constexpr int kNormSteps = 3;
  const int lane = threadIdx.x & 31;
  const entmax::WeightFunction w = entmax::MakeWeightFunction(shared.alpha[column]);
  float max = -kInfinity;
#pragma unroll 1
  for (int e = lane; e < count; e += 32) max = fmaxf(max, list[e].upper);
  max = Warp::Max(max);
  entmax::Bracket bracket = entmax::WidestBracket(w, count > 0 ? count : 1);
  const float tolerance = w.form == entmax::Form::kGeneral ? 1e-5f : entmax::kResidualTolerance;
  // A proven floor of tau is a better start. Rounding is paid for where floors are made.
  float gap = floor < max ? fminf(max - floor, 1.0f) : 1.0f, sum = 0;
  int steps = 0;
  bool by_norm = true;
#pragma unroll 1
  for (int i = 0; i < kNormSteps + entmax::kMaxSteps; i++) {
    entmax::PowerSums sums;
#pragma unroll 1
    for (int e = lane; e < count; e += 32) {
      entmax::Accumulate(w, gap + (list[e].upper - max), sums);
    }
    sums.s0 = Warp::Sum(sums.s0);
    sums.s1 = Warp::Sum(sums.s1);
    sums.s2 = Warp::Sum(sums.s2);
    sum = sums.s0;
    if (fabsf(sum - 1) <= tolerance) break;
    by_norm &= i < kNormSteps && sum > 1.001f;
    float next = gap;
    if (by_norm) {
      next = entmax::NormNewton(w, sums, gap);
      by_norm = next > bracket.lo && next < gap;
    }
    if (!by_norm) {
      next = entmax::NextGap(w, sums, gap, bracket);
      steps++;
    }
    if (next == gap) break;
    gap = next;
  }
  const float inverse = sum > 0 ? 1 / sum : 0.0f;
  int kept = 0, attended = 0;
  uint32_t last_page = 0xffffffffu;
#pragma unroll 1
  for (int first = 0; first < count; first += 32) {
    Candidate x = {};
    bool keep = false;
    if (first + lane < count) {
      x = list[first + lane];
      x.lower = entmax::Weight(w, fmaxf(gap + (x.upper - max), 0.0f)) * inverse;
      keep = x.lower > 0;
    }
    const unsigned mask = __ballot_sync(kFullWarp, keep);
    const unsigned below = mask & ((1u << lane) - 1);
    // A page's candidates are neighbours: it is counted where it differs from the one before.
    const uint32_t page = x.token / kPageTokens;
    const uint32_t previous = __shfl_sync(kFullWarp, page, below ? 31 - __clz(below) : 0);
    attended += __popc(__ballot_sync(kFullWarp, keep && page != (below ? previous : last_page)));
    if (mask) last_page = __shfl_sync(kFullWarp, page, 31 - __clz(mask));
    __syncwarp();
    if (keep) list[kept + __popc(below)] = x;
    kept += __popc(mask);
    __syncwarp();
  }
  if (lane == 0) {
    shared.support[column] = kept;
    shared.attended[column] = attended;
    shared.iterations[column] = steps;
    shared.residual[column] = fabsf(sum - 1);
  }
}

// What does not depend on the rows' outcome, and the outcomes of rows merged here.
template <int kHeadDim, bool kShadow>
__device__ __noinline__ void CountSearch(const Params& p, const DecodeGroup& group,
                                         const BlockShared& shared, int64_t rescored, bool wide) {
  if (threadIdx.x >= 32) return;
  const Slot* slots = p.slots + group.first_slot;
  int pages = 0, keys = 0;
  for (int i = threadIdx.x; i < group.num_pieces; i += 32) {
    pages += __ldcg(&slots[i].pages_read);
    keys += __ldcg(&slots[i].keys_scored);
  }
  pages = LaneGroup<32>::Sum(pages);
  keys = LaneGroup<32>::Sum(keys);
  if (threadIdx.x != 0) return;
  AttentionStats* stats = p.args.stats + group.slice;
  const int64_t columns = group.num_columns;
  AddTo(&stats->rows, columns);
  AddTo(&stats->keys_considered, columns * (group.end_key - group.first_key));
  AddTo(&stats->keys_scored, columns * keys);
  AddTo(&stats->blocks_considered, columns * NumPages(group));
  AddTo(&stats->blocks_scored, columns * pages);
  AddTo(&stats->pages_considered, NumPages(group));
  AddTo(&stats->pages_read, pages);
  int64_t bytes = int64_t{pages} * kPageTokens *
                      (kShadow ? kHeadDim + static_cast<int>(sizeof(ShadowScale)) : 2 * kHeadDim) +
                  rescored * 2 * kHeadDim;
  if (!wide) {
#pragma unroll 1
    for (int c = 0; c < group.num_columns; c++) {
      bytes += int64_t{shared.support[c]} * 2 * kHeadDim;
      CountRow(stats, shared.support[c], shared.attended[c], shared.iterations[c],
               shared.residual[c]);
    }
  }
  AddTo(&stats->kv_bytes_read, bytes);
}

// Tells the other blocks that the group's candidates are merged: they wait for this, not for its output. By one thread;
// where it is `idle` otherwise it stays to see the launch decided, which saves the block that wait at its end.
__device__ __forceinline__ void Decide(const Params& p, const DecodePiece& piece,
                                       BlockShared& shared, bool wide, bool idle) {
  constexpr int kPatience = 4;
  unsigned long long* counter = reinterpret_cast<unsigned long long*>(&p.header->progress);
  const int searches = p.header->num_search_groups;
  uint64_t step = 1;
  if (wide) {
    Counters(p, piece.counters_offset)->wide = 1;
    __threadfence();
    step += uint64_t{1} << 32;
  }
  uint64_t progress = atomicAdd(counter, step) + step;
  if (piece.next >= 0) return;
  for (int i = 0; i < kPatience && idle && !AllDecided(progress, searches); i++) {
    progress = LoadAcquire(&p.header->progress);
  }
  if (!AllDecided(progress, searches) || NumWide(progress) > 0) return;
  LeaveLaunch(p, false);
  shared.left = 1;
}

template <int kHeadDim, bool kShadow>
__device__ __forceinline__ void MergeSearch(const Params& p, const DecodePiece& piece,
                                            Block& block) {
  BlockShared& shared = block.shared;
  const DecodeGroup& group = shared.group;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  Candidate* list = block.merged_list(warp);
  const bool mine = warp < group.num_columns;
  int count = 0;
  float floor = 0;
  if (mine) {
    if (group.num_pieces == 1) {
      count = shared.merged[warp];
      floor = shared.merged_floor[warp];
    } else {
      const bool fits = Collect(p.slots + group.first_slot, group.num_pieces, warp,
                                kSlotEntries / PaddedColumns(group.num_columns),
                                shared.prefix[warp], list, block.list_capacity, count, floor);
      if (!fits) count = -1;
    }
  }
  const bool wide = __syncthreads_or(count < 0) != 0;
  if (threadIdx.x == kThreads - 32) Decide(p, piece, shared, wide, !mine);
  if (wide) {
    if (p.args.stats != nullptr) CountSearch<kHeadDim, kShadow>(p, group, shared, 0, true);
    return;
  }
  int64_t rescored = 0;
  if constexpr (kShadow) {
    if (mine) {
      if (group.num_pieces > 1) {
        const RaisedList raised = RaiseList(list, count, floor, shared.alpha[warp], 3);
        count = raised.count;
        floor = raised.floor;
      }
      if (lane == 0) shared.merged[warp] = count;
    }
    __syncthreads();
#pragma unroll 1
    for (int c = 0; c < group.num_columns; c++) rescored += shared.merged[c];
    Rescore<kHeadDim>(p.args, block);
    __syncthreads();
  }
  if (mine) SolveColumn(warp, shared, list, count, floor);
  __syncthreads();
  Gather<kHeadDim>(p.args, block);
  if (p.args.stats != nullptr) CountSearch<kHeadDim, kShadow>(p, group, shared, rescored, false);
}

}  // namespace tauserve::cuda::decode

#endif  // TAUSERVE_KERNELS_CUDA_DECODE_MERGE_CUH_
