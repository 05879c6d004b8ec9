// The merge of an entmax group, by the block whose piece came last: candidates of all pieces above the best floor, exact
// scores where they are bounds so far, tau, and the weighted sum of the support's values.
#ifndef TAUSERVE_KERNELS_CUDA_DECODE_MERGE_CUH_
#define TAUSERVE_KERNELS_CUDA_DECODE_MERGE_CUH_

#include "kernels/cuda/decode_block.cuh"
#include "kernels/cuda/decode_rows.cuh"

namespace tauserve::cuda::decode {

// Warp `column` collects its column's candidates of all pieces above the best floor, in the order of pieces and warps;
// `refs` has room for 32 pieces' candidates. Returns whether they fit.
__device__ __forceinline__ bool Collect(const Slot* slots, int pieces, int column, int room_bits,
                                        float alpha, uint16_t* refs, Candidate* list, int capacity,
                                        int& count, float& floor) {
  using Warp = LaneGroup<32>;
  constexpr int kUnroll = 6;
  const int lane = threadIdx.x & 31;
  count = 0;
  floor = -kInfinity;
#pragma unroll 1
  for (int piece = 0; piece < pieces; piece += 32) {
    const Slot* from = slots + piece;
    int own = 0;
    if (piece + lane < pieces) {
      own = __ldcg(&from[lane].count[column]);
      floor = fmaxf(floor, __ldcg(&from[lane].floor[column]));
    }
    floor = Warp::Max(floor);
    if (__any_sync(kFullWarp, own < 0)) return false;
    int end = own;
#pragma unroll
    for (int o = 1; o < 32; o <<= 1) {
      const int below = __shfl_up_sync(kFullWarp, end, o);
      if (lane >= o) end += below;
    }
    const int total = __shfl_sync(kFullWarp, end, 31);
    uint16_t* ref = refs + (end - own);
#pragma unroll 1
    for (int k = 0; k < own; k++) ref[k] = static_cast<uint16_t>((lane << room_bits) + k);
    __syncwarp();
    const char* entries = reinterpret_cast<const char*>(from->entries + (column << room_bits));
#pragma unroll 1
    for (int first = 0; first < total; first += 32 * kUnroll) {
      uint4 x[kUnroll];
#pragma unroll
      for (int k = 0; k < kUnroll; k++) {
        const int e = first + k * 32 + lane;
        x[k].x = __float_as_uint(-kInfinity);
        if (e < total) {
          const uint32_t at = refs[e];
          x[k] = __ldcg(reinterpret_cast<const uint4*>(
              entries + (at >> room_bits) * static_cast<uint32_t>(sizeof(Slot)) +
              (at & ((1 << room_bits) - 1)) * static_cast<uint32_t>(sizeof(Candidate))));
        }
      }
      if (count > capacity - 32 * kUnroll) {
        __syncwarp();
        const RaisedList raised = RaiseList(list, count, floor, alpha, 3);
        count = raised.count;
        floor = raised.floor;
        if (count > capacity - 32 * kUnroll) return false;
      }
#pragma unroll
      for (int k = 0; k < kUnroll; k++) {
        const bool keep = __uint_as_float(x[k].x) > floor;
        int kept;
        const int at = count + PlaceInWarp(keep, kept);
        if (keep) *reinterpret_cast<uint4*>(&list[at]) = x[k];
        count += kept;
      }
    }
    __syncwarp();
  }
  return true;
}

// Tau of exact scores in `upper`, by one warp: Newton steps on the norm from a floor, then guarded steps. Weights that sum
// to 1, or 0, go to `lower`.
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
  int support = 0, attended = 0;
  uint32_t last_page = 0xffffffffu;
#pragma unroll 1
  for (int first = 0; first < count; first += 32) {
    float weight = 0;
    uint32_t page = 0;
    if (first + lane < count) {
      Candidate& x = list[first + lane];
      weight = entmax::Weight(w, fmaxf(gap + (x.upper - max), 0.0f)) * inverse;
      x.lower = weight;
      page = x.token / kPageTokens;
    }
    const unsigned mask = __ballot_sync(kFullWarp, weight > 0);
    const unsigned below = mask & ((1u << lane) - 1);
    // A page's candidates are neighbours: it is counted where it differs from the one before.
    const uint32_t previous = __shfl_sync(kFullWarp, page, below ? 31 - __clz(below) : 0);
    attended +=
        __popc(__ballot_sync(kFullWarp, weight > 0 && page != (below ? previous : last_page)));
    if (mask) last_page = __shfl_sync(kFullWarp, page, 31 - __clz(mask));
    support += __popc(mask);
  }
  if (lane == 0) {
    shared.support[column] = support;
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
  const int64_t scored = wide ? group.end_key - group.first_key : keys;  // at last
  const int64_t read = wide ? NumPages(group) : pages;
  AddTo(&stats->keys_scored, columns * scored);
  AddTo(&stats->blocks_considered, columns * NumPages(group));
  AddTo(&stats->blocks_scored, columns * read);
  AddTo(&stats->pages_considered, NumPages(group));
  AddTo(&stats->pages_read, read);
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
  constexpr int kPatience = 2;
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

// Has the newest keys of the block's next piece brought to the L2 cache. By one warp.
template <int kHeadDim, bool kShadow>
__device__ __forceinline__ void PrefetchKeys(const Params& p, const DecodePiece& next) {
#if __CUDA_ARCH__ >= 900
  constexpr int kPages = 16;  // all blocks' together fit the cache
  constexpr int kBytes = kPageTokens * Tile<kHeadDim, kShadow>::kRowBytes;
  const int lane = threadIdx.x & 31, page = next.end_page - 1 - lane;
  if (lane >= kPages || page < next.first_page || next.group.softmax) return;
  const uint32_t id = __ldg(p.args.page_table + next.group.page_table + page);
  const char* pool = kShadow ? reinterpret_cast<const char*>(p.args.shadow)
                             : reinterpret_cast<const char*>(p.args.keys);
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(
                   pool + int64_t{id * p.args.num_kv_heads + next.group.kv_head} * kBytes),
               "r"(kBytes)
               : "memory");
#endif
}

inline constexpr int kUnraised =
    64;  // candidates that are scored and fetched whatever their bounds

template <int kHeadDim, bool kShadow>
__device__ __forceinline__ void MergeSearch(const Params& p, const DecodePiece& piece) {
  BlockShared& shared = Shared();
  const DecodeGroup& group = shared.piece.group;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  Candidate* list = MergedList(p, warp);
  const bool mine = warp < group.num_columns;
  int count = 0;
  float floor = 0;
  if (mine) {
    const int room_bits = 31 - __clz(kSlotEntries / PaddedColumns(group.num_columns));
    const bool fits =
        Collect(p.slots + group.first_slot, group.num_pieces, warp, room_bits, shared.alpha[warp],
                reinterpret_cast<uint16_t*>(Lists()) + (warp << (room_bits + 5)), list,
                p.list_capacity, count, floor);
    if (!fits) count = -1;
    if (count > kUnraised) {
      const RaisedList raised = RaiseList(list, count, floor, shared.alpha[warp], 3);
      count = raised.count;
      floor = raised.floor;
    }
    if (lane == 0) shared.merged[warp] = count;
  } else if (warp == kWarps - 1 && piece.next >= 0) {
    PrefetchKeys<kHeadDim, kShadow>(p, p.pieces[piece.next]);
  }
  const bool wide = __syncthreads_or(count < 0) != 0;
  const bool decides = threadIdx.x == kThreads - 32;
  if (wide) {
    if (decides) Decide(p, piece, shared, true, !mine);
    if (p.args.stats != nullptr) CountSearch<kHeadDim, kShadow>(p, group, shared, 0, true);
    return;
  }
  if constexpr (kShadow) Rescore<kHeadDim>(p);
  FetchValues<kHeadDim>(p);
  int64_t rescored = 0;
  if constexpr (kShadow) {
    __syncthreads();
#pragma unroll 1
    for (int c = 0; c < group.num_columns; c++) rescored += shared.merged[c];
  }
  if (mine) SolveColumn(warp, shared, list, count, floor);
  if (decides) Decide(p, piece, shared, false, !mine);
  WaitForRows();
  __syncthreads();
  Gather<kHeadDim>(p);
  if (p.args.stats != nullptr) CountSearch<kHeadDim, kShadow>(p, group, shared, rescored, false);
}

}  // namespace tauserve::cuda::decode

#endif  // TAUSERVE_KERNELS_CUDA_DECODE_MERGE_CUH_
