// Entmax groups whose candidates outgrew a list (equal scores, flat rows), by all blocks of the launch together: scores
// of all keys to memory, tau from them, then the values of the keys with weight. Four steps with a barrier of the grid
// between them, for as many groups at a time as the workspace holds scores of.
#ifndef TAUSERVE_KERNELS_CUDA_DECODE_WIDE_CUH_
#define TAUSERVE_KERNELS_CUDA_DECODE_WIDE_CUH_

#include "kernels/cuda/decode_values.cuh"

namespace tauserve::cuda::decode {

inline constexpr int kWideGroups = 256;                           // of a batch, at most
inline constexpr int kPageScores = kPageTokens * kDecodeColumns;  // [column][key]

// Tau of a wide row: weight = max(gap + s - max, 0)^e * inverse.
struct alignas(16) WideRow {
  float max;
  float gap;
  float inverse;
  float alpha;
};

// All blocks wait for each other. The counter is reset by the last block to leave the kernel.
__device__ __forceinline__ void GridBarrier(const Params& p, uint32_t& round) {
  FenceBeforeCopies();
  __syncthreads();
  round++;
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(&p.header->barrier, 1u);
    while (LoadAcquire(&p.header->barrier) < round * gridDim.x) {
    }
    __threadfence();
  }
  __syncthreads();
}

// Wide groups of one batch, in the order of the plan: first_page[i] is the number of pages before the i-th.
struct WideBatch {
  int* group;       // [kWideGroups]
  int* first_page;  // [kWideGroups + 1]
  int count;
  int next;  // group to go on from

  __device__ __forceinline__ int64_t pages() const { return first_page[count]; }
  __device__ __forceinline__ int64_t BlockBegin(int block) const {
    return pages() * block / gridDim.x;
  }
};

// By one warp.
__device__ __forceinline__ void FillBatch(const Params& p, WideBatch& batch) {
  const int lane = threadIdx.x & 31;
  const int num_groups = p.header->num_groups;
  const int64_t capacity = p.score_capacity / kPageScores;
  int from = batch.next, count = 0, pages = 0;
  bool full = false;
  while (from < num_groups && !full) {
    const int index = from + lane;
    const bool wide =
        index < num_groups && __ldcg(&Counters(p, p.header->counters_offset)[index].wide) != 0;
    const int mine = wide ? NumPages(Groups(p)[index]) : 0;
    int before = mine;
#pragma unroll
    for (int o = 1; o < 32; o <<= 1) {
      const int x = __shfl_up_sync(kFullWarp, before, o);
      if (lane >= o) before += x;
    }
    const int rank = count + __popc(__ballot_sync(kFullWarp, wide) & ((1u << lane) - 1));
    const bool fits = pages + before <= capacity && rank < kWideGroups;
    const unsigned taken = __ballot_sync(kFullWarp, wide && fits);
    const unsigned left = __ballot_sync(kFullWarp, wide && !fits);
    if (wide && fits) {
      batch.group[rank] = index;
      batch.first_page[rank] = pages + before - mine;
    }
    count += __popc(taken);
    if (taken) pages += __shfl_sync(kFullWarp, before, 31 - __clz(taken));
    full = left != 0;
    from += full ? __ffs(left) - 1 : 32;
  }
  __syncwarp();
  if (lane == 0) batch.first_page[count] = pages;
  batch.count = count;
  batch.next = from;
}

// Calls work(i, group, first, end) for the parts of wide groups that are this block's: pages [first, end) of the group.
template <typename Work>
__device__ __forceinline__ void ForBlockPages(const Params& p, const WideBatch& batch, Work work) {
  const int64_t begin = batch.BlockBegin(blockIdx.x), end = batch.BlockBegin(blockIdx.x + 1);
  for (int i = 0; i < batch.count; i++) {
    const int first = max(batch.first_page[i], static_cast<int>(begin));
    const int last = min(batch.first_page[i + 1], static_cast<int>(end));
    if (first < last) {
      work(i, Groups(p)[batch.group[i]], first - batch.first_page[i], last - batch.first_page[i]);
    }
  }
}

template <int kHeadDim>
__device__ __forceinline__ void WideScores(const Params& p, const WideBatch& batch) {
  const int lane = threadIdx.x & 31, t = lane & 3, g = lane >> 2;
  ForBlockPages(p, batch, [&](int i, const DecodeGroup& group, int first, int end) {
    const int first_page = FirstPage(group);
    RowStream<kHeadDim, 1> stream(p, group, p.args.keys, nullptr, first_page + first,
                                  first_page + end);
    Bf16Queries<kHeadDim> queries;
    queries.Load(p.args, group);
    stream.Fill();
    const Column column = MakeColumn(p.args, group, g);
    float* out = p.scores + int64_t{batch.first_page[i] - first_page} * kPageScores +
                 g * kPageTokens + 2 * t;
#pragma unroll 1
    while (stream.Next()) {
      float s[2][2];
      ScoreRows<kHeadDim>(stream.Wait(), queries, s);
      float* to = out + int64_t{stream.page()} * kPageScores + stream.sub_tile() * kRowTile;
      const int key = stream.first_key() + 2 * t;
      stream.Release();
      stream.Fill();
#pragma unroll
      for (int h = 0; h < 2; h++) {
#pragma unroll
        for (int k = 0; k < 2; k++) {
          const int at = key + 8 * h + k;
          s[h][k] = column.mul * s[h][k] + column.slope * static_cast<float>(at - group.position);
          if (at < group.first_key || at >= group.end_key) s[h][k] = -kInfinity;
        }
        if (g < group.num_columns) {
          __stcg(reinterpret_cast<float2*>(to + 8 * h), make_float2(s[h][0], s[h][1]));
        }
      }
    }
    stream.Finish();
  });
}

// Sums over the block's threads, the same in each.
__device__ __forceinline__ void BlockSum(BlockShared& shared, float (&x)[4]) {
  const int warp = threadIdx.x >> 5;
#pragma unroll
  for (int i = 0; i < 4; i++) x[i] = LaneGroup<32>::Sum(x[i]);
  __syncthreads();
  if ((threadIdx.x & 31) == 0) {
#pragma unroll
    for (int i = 0; i < 4; i++) shared.reduce[warp][i] = x[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 4; i++) {
    x[i] = 0;
    for (int w = 0; w < kWarps; w++) x[i] += shared.reduce[w][i];
  }
}

// Tau of one row from its scores, by a block.
__device__ __forceinline__ void SolveWide(const Params& p, const WideBatch& batch, int i,
                                          int column, BlockShared& shared, WideRow* row) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const DecodeGroup& group = Groups(p)[batch.group[i]];
  const float* scores =
      p.scores + static_cast<int64_t>(batch.first_page[i]) * kPageScores + column * kPageTokens;
  const int pages = batch.first_page[i + 1] - batch.first_page[i];
  const entmax::WeightFunction w =
      entmax::MakeWeightFunction(p.args.heads[group.head[column]].alpha);
  // What fits is kept in shared memory; a thread reads what it wrote.
  float2* kept = reinterpret_cast<float2*>(block_memory + kSharedHead);
  const int kept_pages =
      (kListBytes + kWarps * p.list_capacity * static_cast<int>(sizeof(Candidate))) /
      (kPageTokens * static_cast<int>(sizeof(float)));
  auto load = [&](int page) {
    return __ldcg(reinterpret_cast<const float2*>(scores + int64_t{page} * kPageScores + lane * 2));
  };
  auto for_scores = [&](auto visit) {
#pragma unroll 4
    for (int page = warp; page < min(pages, kept_pages); page += kWarps) {
      const float2 s = kept[page * 32 + lane];
      visit(s.x);
      visit(s.y);
    }
#pragma unroll 4
    for (int page = kept_pages + ((warp - kept_pages) & (kWarps - 1)); page < pages;
         page += kWarps) {
      const float2 s = load(page);
      visit(s.x);
      visit(s.y);
    }
  };
  float max = -kInfinity;
  __syncthreads();
#pragma unroll 8
  for (int page = warp; page < pages; page += kWarps) {
    const float2 s = load(page);
    if (page < kept_pages) kept[page * 32 + lane] = s;
    max = fmaxf(max, fmaxf(s.x, s.y));
  }
  max = LaneGroup<32>::Max(max);
  __syncthreads();
  if (lane == 0) shared.reduce[warp][0] = max;
  __syncthreads();
  for (int k = 0; k < kWarps; k++) max = fmaxf(max, shared.reduce[k][0]);
  float supported = 0;
  auto sums_at = [&](float gap) {
    entmax::PowerSums sums;
    int support = 0;
    for_scores([&](float s) {
      entmax::Accumulate(w, gap + (s - max), sums);
      support += gap + (s - max) > 0;
    });
    float x[4] = {sums.s0, sums.s1, sums.s2, static_cast<float>(support)};
    BlockSum(shared, x);
    supported = x[3];
    return entmax::PowerSums{x[0], x[1], x[2]};
  };
  entmax::Bracket bracket = entmax::WidestBracket(w, group.end_key - group.first_key);
  float gap = 1;
  entmax::PowerSums sums = sums_at(gap);
  for (int k = 0; k < 6 && sums.s0 > 1.01f; k++) {
    const float next = entmax::NormNewton(w, sums, gap);
    if (!(next > bracket.lo && next < gap)) break;
    gap = next;
    sums = sums_at(gap);
  }
  int steps = 0;
  while (fabsf(sums.s0 - 1) > entmax::kResidualTolerance && steps < entmax::kMaxSteps) {
    const float next = entmax::NextGap(w, sums, gap, bracket);
    steps++;
    if (next == gap) break;
    gap = next;
    sums = sums_at(gap);
  }
  if (threadIdx.x != 0) return;
  *row = {max, gap, sums.s0 > 0 ? 1 / sums.s0 : 0.0f, w.alpha};
  if (p.args.stats == nullptr) return;
  AttentionStats* stats = p.args.stats + group.slice;
  CountRow(stats, static_cast<int>(supported), 0, steps, fabsf(sums.s0 - 1));
  AddTo(&stats->wide_rows, 1);
}

template <int kHeadDim>
__device__ __forceinline__ void WideValues(const Params& p, const WideBatch& batch,
                                           const WideRow* rows) {
  const int lane = threadIdx.x & 31, t = lane & 3, g = lane >> 2;
  ForBlockPages(p, batch, [&](int i, const DecodeGroup& group, int first, int end) {
    const int first_page = FirstPage(group);
    RowStream<kHeadDim, 1> stream(p, group, p.args.values, nullptr, first_page + first,
                                  first_page + end);
    stream.Fill();
    const bool live = g < group.num_columns;
    WideRow row{};
    if (live) {
      const uint4 x = __ldcg(reinterpret_cast<const uint4*>(rows + i * kDecodeColumns + g));
      row = {__uint_as_float(x.x), __uint_as_float(x.y), __uint_as_float(x.z),
             __uint_as_float(x.w)};
    }
    const entmax::WeightFunction w = entmax::MakeWeightFunction(row.alpha);
    const float* scores = p.scores + int64_t{batch.first_page[i] - first_page} * kPageScores +
                          g * kPageTokens + 2 * t;
    float2 next[2];  // scores of the tile to come
    auto load = [&](int page, int sub_tile) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        next[h] = make_float2(-kInfinity, -kInfinity);
        if (live && page < first_page + end) {
          next[h] = __ldcg(reinterpret_cast<const float2*>(scores + int64_t{page} * kPageScores +
                                                           sub_tile * kRowTile + 8 * h));
        }
      }
    };
    constexpr int kTiles = kPageTokens / kRowTile;
    load(stream.page(), 0);
    WeightedValues<kHeadDim> values;
    int attended = 0;
    bool any = false;
#pragma unroll 1
    while (stream.Next()) {
      const int key = stream.first_key(), tile = stream.sub_tile();
      float s[2][2];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        s[h][0] = next[h].x;
        s[h][1] = next[h].y;
#pragma unroll
        for (int k = 0; k < 2; k++) {
          const float z = row.gap + (s[h][k] - row.max);
          s[h][k] = live && z > 0 ? entmax::Weight(w, z) * row.inverse : 0.0f;
          any |= s[h][k] > 0;
        }
      }
      load(stream.page() + (tile + 1) / kTiles * kWarps, (tile + 1) % kTiles);
      if (tile == kTiles - 1) {
        attended += (__ballot_sync(kFullWarp, any) >> (lane & ~3) & 15) != 0;
        any = false;
      }
      const bool edge = key < group.first_key || key + kRowTile > group.end_key;
      values.Add(stream.Wait(), s, key, edge, group);
      stream.Release();
      stream.Fill();
    }
    stream.Finish();
    if (p.args.stats != nullptr) {
      AttentionStats* stats = p.args.stats + group.slice;
      if (t == 0) AddTo(&stats->blocks_attended, attended);
      if (threadIdx.x == 0) {
        AddTo(&stats->kv_bytes_read, int64_t{end - first} * kPageTokens * 4 * kHeadDim);
      }
    }
    values.Reduce(group.num_columns,
                  p.partials + static_cast<int64_t>(blockIdx.x + i) * kDecodeColumns * kHeadDim);
    FenceBeforeCopies();
    __syncthreads();
  });
}

template <int kHeadDim>
__device__ __forceinline__ void MergeWide(const Params& p, const WideBatch& batch, int i,
                                          int column) {
  const DecodeGroup& group = Groups(p)[batch.group[i]];
  for (int d = threadIdx.x; d < kHeadDim; d += kThreads) {
    float out = 0;
    for (int b = 0; b < static_cast<int>(gridDim.x); b++) {
      if (max(batch.BlockBegin(b), int64_t{batch.first_page[i]}) <
          min(batch.BlockBegin(b + 1), int64_t{batch.first_page[i + 1]})) {
        out += __ldcg(p.partials +
                      (static_cast<int64_t>(b + i) * kDecodeColumns + column) * kHeadDim + d);
      }
    }
    p.args.out[group.row * p.args.out_stride + static_cast<int64_t>(group.head[column]) * kHeadDim +
               d] = __float2bfloat16(out);
  }
}

template <int kHeadDim>
__device__ __noinline__ void FinishWideGroups(const Params& p) {
  BlockShared& shared = Shared();
  WideRow* rows = reinterpret_cast<WideRow*>(p.wide_rows);
  WideBatch batch{&shared.prefix[0][0], &shared.prefix[1][0], 0, 0};
  uint32_t round = 0;
  for (;;) {
    FenceBeforeCopies();
    __syncthreads();
    if (threadIdx.x < 32) {
      FillBatch(p, batch);
      if (threadIdx.x == 0) {
        shared.merged[0] = batch.count;
        shared.merged[1] = batch.next;
      }
    }
    __syncthreads();
    batch.count = shared.merged[0];
    batch.next = shared.merged[1];
    if (batch.count == 0) break;
    WideScores<kHeadDim>(p, batch);
    GridBarrier(p, round);
    for (int r = blockIdx.x; r < batch.count * kDecodeColumns; r += gridDim.x) {
      const int i = r / kDecodeColumns, c = r % kDecodeColumns;
      if (c < Groups(p)[batch.group[i]].num_columns) SolveWide(p, batch, i, c, shared, rows + r);
    }
    GridBarrier(p, round);
    WideValues<kHeadDim>(p, batch, rows);
    GridBarrier(p, round);
    for (int r = blockIdx.x; r < batch.count * kDecodeColumns; r += gridDim.x) {
      const int i = r / kDecodeColumns, c = r % kDecodeColumns;
      if (c < Groups(p)[batch.group[i]].num_columns) MergeWide<kHeadDim>(p, batch, i, c);
    }
  }
}

}  // namespace tauserve::cuda::decode

#endif  // TAUSERVE_KERNELS_CUDA_DECODE_WIDE_CUH_
