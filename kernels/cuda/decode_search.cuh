// The search: warps stream their pages' keys and keep what may lie above the threshold. Each warp has its own floor
// and lists, so nothing waits for another warp and the outcome doesn't depend on timing; the block then keeps what lies
// above its best floor and hands it to the merge.
#ifndef TAUSERVE_KERNELS_CUDA_DECODE_SEARCH_CUH_
#define TAUSERVE_KERNELS_CUDA_DECODE_SEARCH_CUH_

#include "kernels/cuda/decode_block.cuh"

namespace tauserve::cuda::decode {

struct RaisedList {
  int count;
  float floor;
};

// Not inlined, and by value: the search's state stays in registers.
__device__ __noinline__ RaisedList RaiseList(Candidate* list, int count, float floor, float alpha) {
  RaiseAndCompact<8>(list, count, floor, alpha, 3);
  return {count, floor};
}

// A warp's search for the thread's two columns, 2 (lane % 4) and the next.
template <int kHeadDim, bool kShadow>
class WarpSearch {
 public:
  using Shape = Tile<kHeadDim, kShadow>;
  using Scores = TileScores<Shape::kBlocks, kShadow>;
  using Group = LaneGroup<8>;

  __device__ __forceinline__ WarpSearch(const AttentionArgs& args, const DecodeGroup& group,
                                        Candidate* lists)
      : group_(group), capacity_(kWarpEntries / PaddedColumns(group.num_columns)) {
    const int t = threadIdx.x & 3;
#pragma unroll
    for (int c = 0; c < 2; c++) {
      const int column = 2 * t + c;
      const bool live = column < group.num_columns;
      columns_[c] = MakeColumn(args, group, column);
      alpha_[c] = live ? args.heads[group.head[column]].alpha : 1.5f;
      floor_[c] = live ? -kInfinity : kInfinity;
      list_[c] = lists + (live ? column * capacity_ : 0);
    }
    queries_.Load(args, group, columns_);
  }

  // Scores a tile. Priming only raises the floors: the tile will be, or was, another warp's.
  __device__ __forceinline__ void Consume(const char* tile, const TileLabel& label, bool prime) {
    const int g = (threadIdx.x & 31) >> 2;
    const int first = label.page * kPageTokens + label.sub_tile * Shape::kKeys;
    Scores s;
    queries_.Score(tile, s);
    if (group_.biased) {
#pragma unroll
      for (int m = 0; m < Shape::kBlocks; m++) {
#pragma unroll
        for (int i = 0; i < 4; i++) s.upper[m][i] += Bias(i & 1, first + m * 16 + g + (i >> 1) * 8);
      }
    }
    if (first < group_.first_key || first + Shape::kKeys > group_.end_key) {
#pragma unroll
      for (int m = 0; m < Shape::kBlocks; m++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int key = first + m * 16 + g + (i >> 1) * 8;
          if (key < group_.first_key || key >= group_.end_key) {
            s.upper[m][i] = -kInfinity;
            if constexpr (kShadow) s.margin[m][i] = 0;
          }
        }
      }
    }
    const bool fresh = floor_[0] == -kInfinity || floor_[1] == -kInfinity;
    if (__any_sync(kFullWarp, fresh)) FirstFloor(s);
    if (prime) return;
    bool any = false;
#pragma unroll
    for (int m = 0; m < Shape::kBlocks; m++) {
#pragma unroll
      for (int i = 0; i < 4; i++) any |= s.upper[m][i] > floor_[i & 1];
    }
    if (__any_sync(kFullWarp, any)) Push(s, first, label);
  }

  // At the end of the piece: long lists are worth a raise.
  __device__ __forceinline__ void Finish() {
    if (__any_sync(kFullWarp, count_[0] > 24 || count_[1] > 24)) Raise();
  }

  __device__ __forceinline__ float floor(int c) const { return floor_[c]; }
  __device__ __forceinline__ int count(int c) const { return count_[c]; }
  __device__ __forceinline__ bool wide(int c) const { return wide_[c]; }
  __device__ __forceinline__ const Candidate* list(int c) const { return list_[c]; }
  __device__ __forceinline__ float norm(int c) const { return queries_.norm[c]; }
  __device__ __forceinline__ float slope(int c) const { return columns_[c].slope; }

 private:
  __device__ __forceinline__ float Bias(int c, int key) const {
    return columns_[c].slope * static_cast<float>(key - group_.position);
  }

  // The first tile's floor: its maximum, then two Newton steps where powers are cheap.
  __device__ __forceinline__ void FirstFloor(const Scores& s) {
#pragma unroll
    for (int c = 0; c < 2; c++) {
      float max = -kInfinity;
#pragma unroll
      for (int m = 0; m < Shape::kBlocks; m++) {
        max = fmaxf(max, fmaxf(s.Lower(m, c), s.Lower(m, c + 2)));
      }
      max = Group::Max(max);
      const bool seen = max > -kInfinity && floor_[c] < kInfinity;
      float t = seen ? fmaxf(floor_[c], FloorOfMax(max)) : 0;
      const entmax::WeightFunction w = entmax::MakeWeightFunction(alpha_[c]);
#pragma unroll
      for (int step = 0; step < 2; step++) {
        entmax::PowerSums sums;
        if (w.form != entmax::Form::kGeneral) {
#pragma unroll
          for (int m = 0; m < Shape::kBlocks; m++) {
            Add(w.form, s.Lower(m, c) - t, sums);
            Add(w.form, s.Lower(m, c + 2) - t, sums);
          }
        }
        sums.s0 = Group::Sum(sums.s0);
        sums.s1 = Group::Sum(sums.s1);
        if (w.form != entmax::Form::kGeneral) t = RaisedFloor(w, sums, max, t);
      }
      if (seen) floor_[c] = t;
    }
  }

  __device__ static __forceinline__ void Add(entmax::Form form, float z, entmax::PowerSums& sums) {
    z = fmaxf(z, 0.0f);
    const bool square = form == entmax::Form::kSquare;
    sums.s0 += square ? z * z : z;
    sums.s1 += square ? z : (z > 0 ? 1.0f : 0.0f);
  }

  __device__ __forceinline__ void Hits(const Scores& s, int (&hits)[2]) const {
    hits[0] = hits[1] = 0;
#pragma unroll
    for (int m = 0; m < Shape::kBlocks; m++) {
#pragma unroll
      for (int i = 0; i < 4; i++) hits[i & 1] += s.upper[m][i] > floor_[i & 1];
    }
    hits[0] = Group::Sum(hits[0]);
    hits[1] = Group::Sum(hits[1]);
  }

  __device__ __forceinline__ void Raise() {
#pragma unroll
    for (int c = 0; c < 2; c++) {
      const RaisedList raised = RaiseList(list_[c], count_[c], floor_[c], alpha_[c]);
      count_[c] = raised.count;
      floor_[c] = raised.floor;
    }
  }

  __device__ __forceinline__ void Push(const Scores& s, int first, const TileLabel& label) {
    const int g = (threadIdx.x & 31) >> 2;
    int hits[2];
    Hits(s, hits);
    if (__any_sync(kFullWarp, count_[0] + hits[0] > capacity_ || count_[1] + hits[1] > capacity_)) {
      Raise();
      Hits(s, hits);
#pragma unroll
      for (int c = 0; c < 2; c++) {
        if (count_[c] + hits[c] > capacity_) {
          wide_[c] = true;
          floor_[c] = kInfinity;
          count_[c] = 0;
        }
      }
    }
    const uint32_t token =
        static_cast<uint32_t>(label.page_id) * kPageTokens + label.sub_tile * Shape::kKeys + g;
#pragma unroll
    for (int m = 0; m < Shape::kBlocks; m++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int c = i & 1, offset = m * 16 + (i >> 1) * 8;
        const bool keep = s.upper[m][i] > floor_[c];
        int total;
        const int at = count_[c] + Group::Place(keep, total);
        if (keep) {
          list_[c][at] = {s.upper[m][i], s.Lower(m, i), token + offset,
                          Bias(c, first + offset + g)};
        }
        count_[c] += total;
      }
    }
    __syncwarp();
  }

  const DecodeGroup& group_;
  int capacity_;
  Column columns_[2];
  Queries<kHeadDim, kShadow> queries_;
  float alpha_[2];
  float floor_[2];
  int count_[2] = {0, 0};
  bool wide_[2] = {false, false};
  Candidate* list_[2];
};

// Hands the block's candidates above its best floor to the piece's slot.
template <typename Search>
__device__ __forceinline__ void WriteSlot(const Search& search, const DecodeGroup& group,
                                          Block& block, Slot& slot) {
  using Group = LaneGroup<8>;
  BlockShared& shared = block.shared;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, t = lane & 3, g = lane >> 2;
  if (g == 0) {
#pragma unroll
    for (int c = 0; c < 2; c++) shared.floor[warp][2 * t + c] = search.floor(c);
  }
  __syncthreads();
  float floor[2];
  int kept[2];
#pragma unroll
  for (int c = 0; c < 2; c++) {
    floor[c] = -kInfinity;
    for (int w = 0; w < kWarps; w++) floor[c] = fmaxf(floor[c], shared.floor[w][2 * t + c]);
    int n = 0;  // a wide column's floor is infinite: it keeps nothing
    for (int e = g; e < search.count(c); e += 8) n += search.list(c)[e].upper > floor[c];
    kept[c] = Group::Sum(n);
    if (g == 0) shared.count[warp][2 * t + c] = kept[c];
  }
  __syncthreads();
  const int capacity = kSlotEntries / PaddedColumns(group.num_columns);
#pragma unroll
  for (int c = 0; c < 2; c++) {
    const int column = 2 * t + c;
    int before = 0, all = 0;
    for (int w = 0; w < kWarps; w++) {
      if (w == warp) before = all;
      all += shared.count[w][column];
    }
    const bool live = column < group.num_columns;
    const bool wide = floor[c] == kInfinity || all > capacity;
    const int n = live && !wide ? search.count(c) : 0;
    const int most = __reduce_max_sync(kFullWarp, n);
    for (int e = g; e - g < most; e += 8) {
      Candidate x;
      x.upper = -kInfinity;
      if (e < n) x = search.list(c)[e];
      const bool keep = x.upper > floor[c];
      int total;
      const int at = before + Group::Place(keep, total);
      if (keep) {
        __stcg(reinterpret_cast<uint4*>(&slot.entries[column * capacity + at]),
               *reinterpret_cast<const uint4*>(&x));
      }
      before += total;
    }
    if (warp == 0 && g == 0 && live) {
      __stcg(&slot.count[column], wide ? -1 : all);
      __stcg(&slot.floor[column], floor[c]);
    }
  }
  if (threadIdx.x == 0) {
    int pages = 0, keys = 0;
    for (int w = 0; w < kWarps; w++) {
      pages += shared.pages_read[w];
      keys += shared.keys_scored[w];
    }
    __stcg(&slot.pages_read, pages);
    __stcg(&slot.keys_scored, keys);
  }
}

// Searches a piece and fills its slot.
template <int kHeadDim, bool kShadow>
__device__ __forceinline__ void SearchPiece(const Params& p, const DecodePiece& piece, Block& block,
                                            WarpStages& stages) {
  const AttentionArgs& args = p.args;
  const DecodeGroup& group = block.shared.group;
  BlockShared& shared = block.shared;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, t = lane & 3, g = lane >> 2;
  // Newest pages first. Where distance or a page's norm may rule pages out, every warp starts with the newest page's
  // scores, which give it a floor to test against.
  const bool test = args.page_key_norms != nullptr;
  const int newest = (group.end_key - 1) / kPageTokens;
  const int last = piece.end_page - 1 - warp;
  const int pages = last < piece.first_page ? 0 : (last - piece.first_page) / kWarps + 1;
  auto all = [](int, int) { return true; };
  TileStream<kHeadDim, kShadow> stream(args, group, last, kWarps, pages, stages);
  if (!test) stream.Fill(all);  // on their way while the queries are prepared
  WarpSearch<kHeadDim, kShadow> search(args, group, block.lists + warp * kWarpEntries);
  const char* tile;
  TileLabel label;
  int keys = 0;
  if (test && pages > 0) {
    TileStream<kHeadDim, kShadow> prime(args, group, newest, 1, 1, stages);
    prime.Fill(all);
    while (prime.Wait(tile, label)) {
      search.Consume(tile, label, true);
      prime.Release();
      prime.Fill(all);
    }
  }
  // No key of the page can lie above a column's floor: |mul q| |k| + slope * distance <= floor.
  auto keep = [&](int page, int page_id) {
    if (!test) return true;
    const float norm = __ldg(args.page_key_norms +
                             static_cast<int64_t>(page_id) * args.num_kv_heads + group.kv_head);
    const float nearest = static_cast<float>(
        min(page * kPageTokens + kPageTokens - 1, group.end_key - 1) - group.position);
    bool above = false;
    for (int c = 0; c < group.num_columns; c++) {
      const float bound =
          shared.bound[warp][1][c] * norm * 1.0001f + shared.bound[warp][2][c] * nearest;
      above |= !(bound <= shared.bound[warp][0][c]);
    }
    return above;
  };
  auto fill = [&] {
    if (test) {
      __syncwarp();
      if (g == 0) {
#pragma unroll
        for (int c = 0; c < 2; c++) {
          shared.bound[warp][0][2 * t + c] = search.wide(c) ? kInfinity : search.floor(c);
          shared.bound[warp][1][2 * t + c] = search.norm(c);
          shared.bound[warp][2][2 * t + c] = search.slope(c);
        }
      }
      __syncwarp();
    }
    stream.Fill(keep);
  };
  if (test) fill();
  while (stream.Wait(tile, label)) {
    search.Consume(tile, label, false);
    if (label.sub_tile == 0) keys += VisibleKeys(group, label.page);
    stream.Release();
    fill();
  }
  search.Finish();
  if (lane == 0) {
    shared.pages_read[warp] = stream.pages_read();
    shared.keys_scored[warp] = keys;
  }
  WriteSlot(search, group, block, p.slots[group.first_slot + piece.index]);
}

}  // namespace tauserve::cuda::decode

#endif  // TAUSERVE_KERNELS_CUDA_DECODE_SEARCH_CUH_
