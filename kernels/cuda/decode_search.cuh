// The search: warps stream their pages' keys and keep what may lie above the threshold. Each warp has its own floor
// and lists, so nothing waits for another warp and the outcome doesn't depend on timing; the block then keeps what lies
// above its best floor and hands it to the merge.
#ifndef TAUSERVE_KERNELS_CUDA_DECODE_SEARCH_CUH_
#define TAUSERVE_KERNELS_CUDA_DECODE_SEARCH_CUH_

#include "kernels/cuda/decode_block.cuh"

namespace tauserve::cuda::decode {

// A warp's search for the thread's two columns, 2 (lane % 4) and the next.
template <int kHeadDim, bool kShadow>
class WarpSearch {
 public:
  using Shape = Tile<kHeadDim, kShadow>;
  using Scores = TileScores<Shape::kBlocks, kShadow>;
  using Group = LaneGroup<8>;

  __device__ __forceinline__ WarpSearch(const AttentionArgs& args, const DecodeGroup& group,
                                        Candidate* lists)
      : group_(group), lists_(lists), padded_(PaddedColumns(group.num_columns)) {
    const int t = threadIdx.x & 3;
    capacity_ = min(kMaxListEntries, kWarpEntries / padded_);
#pragma unroll
    for (int c = 0; c < 2; c++) {
      const int column = 2 * t + c;
      const bool live = column < group.num_columns;
      input_[c] = LoadColumn(args, group, column);
      floor_[c] = live ? -kInfinity : kInfinity;
      list_[c] = lists + (live ? column * capacity_ : 0);
    }
    queries_.Load(args, group);
  }

  // Waits for what the constructor began to load.
  __device__ __forceinline__ void Prepare(const AttentionArgs& args) {
#pragma unroll
    for (int c = 0; c < 2; c++) {
      columns_[c] = MakeColumn(args, input_[c]);
      alpha_[c] = input_[c].head.alpha;
    }
    queries_.Prepare(columns_);
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

  // At the end of the piece: lists that are still long delay the block's merge.
  __device__ __forceinline__ void Finish() {
    if (__any_sync(kFullWarp, count_[0] > 24 || count_[1] > 24)) Raise();
  }

  __device__ __forceinline__ float floor(int c) const { return floor_[c]; }
  __device__ __forceinline__ int count(int c) const { return count_[c]; }
  __device__ __forceinline__ int capacity() const { return capacity_; }
  __device__ __forceinline__ float norm(int c) const { return queries_.norm[c]; }
  __device__ __forceinline__ float slope(int c) const { return columns_[c].slope; }

 private:
  __device__ __forceinline__ float Bias(int c, int key) const {
    return columns_[c].slope * static_cast<float>(key - group_.position);
  }

  // The first tile's floor: its maximum less 1. Newton steps follow when lists fill and at the end.
  __device__ __forceinline__ void FirstFloor(const Scores& s) {
#pragma unroll
    for (int c = 0; c < 2; c++) {
      float max = -kInfinity;
#pragma unroll
      for (int m = 0; m < Shape::kBlocks; m++) {
        max = fmaxf(max, fmaxf(s.Lower(m, c), s.Lower(m, c + 2)));
      }
      max = Group::Max(max);
      if (max > -kInfinity) floor_[c] = fmaxf(floor_[c], FloorOfMax(max));
    }
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

  // The lanes of RaiseLists() and those of the search hold different columns.
  __device__ __forceinline__ void Raise() {
    const int lanes = 32 / padded_, column = (threadIdx.x & 31) / lanes;
    auto of_column = [&](auto x0, auto x1) {
      x0 = __shfl_sync(kFullWarp, x0, column / 2);
      x1 = __shfl_sync(kFullWarp, x1, column / 2);
      return column % 2 ? x1 : x0;
    };
    const RaisedList raised =
        RaiseLists(lists_, padded_, capacity_, of_column(count_[0], count_[1]),
                   of_column(floor_[0], floor_[1]), of_column(alpha_[0], alpha_[1]));
#pragma unroll
    for (int c = 0; c < 2; c++) {
      const int mine = 2 * (threadIdx.x & 3) + c;
      const int from = mine * lanes & 31;
      const int count = __shfl_sync(kFullWarp, raised.count, from);
      const float floor = __shfl_sync(kFullWarp, raised.floor, from);
      if (mine < padded_) {
        count_[c] = count;
        floor_[c] = floor;
      }
    }
  }

  // Raises floors where the tile's hits don't fit; a column they still don't fit in is wide.
  __device__ __forceinline__ void MakeRoom(const Scores& s) {
#pragma unroll 1
    for (int attempt = 0; attempt < 2; attempt++) {
      int hits[2];
      Hits(s, hits);
      const bool full[2] = {count_[0] + hits[0] > capacity_, count_[1] + hits[1] > capacity_};
      if (!__any_sync(kFullWarp, full[0] || full[1])) return;
      if (attempt == 0) {
        Raise();
        continue;
      }
#pragma unroll
      for (int c = 0; c < 2; c++) {
        if (full[c]) {
          floor_[c] = kInfinity;
          count_[c] = 0;
        }
      }
    }
  }

  __device__ __forceinline__ void Push(const Scores& s, int first, const TileLabel& label) {
    const int g = (threadIdx.x & 31) >> 2;
    const int room = capacity_ - Shape::kKeys;
    if (__any_sync(kFullWarp, count_[0] > room || count_[1] > room)) MakeRoom(s);
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
  Candidate* lists_;
  int padded_;  // columns
  int capacity_;
  ColumnInput input_[2];
  Column columns_[2];
  Queries<kHeadDim, kShadow> queries_;
  float alpha_[2];
  float floor_[2];
  int count_[2] = {0, 0};
  Candidate* list_[2];
};

// Warp `column` merges its column's candidates of all warps above the block's best floor, raises the floor, and leaves
// them in the merged list and, where the group has more pieces, in the piece's slot.
__device__ __forceinline__ void MergeBlock(const DecodeGroup& group, Block& block, int capacity,
                                           Slot* slot) {
  using Warp = LaneGroup<32>;
  BlockShared& shared = block.shared;
  const int column = threadIdx.x >> 5, lane = threadIdx.x & 31;
  if (column >= group.num_columns) return;
  float floor = lane < kWarps ? shared.floor[lane][column] : -kInfinity;
  int end = lane < kWarps ? shared.count[lane][column] : 0;  // of the warp's candidates, in a row
#pragma unroll
  for (int o = 1; o < kWarps; o <<= 1) {
    const int below = __shfl_up_sync(kFullWarp, end, o);
    if (lane >= o) end += below;
  }
  floor = Warp::Max(floor);
  const int total = __shfl_sync(kFullWarp, end, kWarps - 1);
  bool wide = floor == kInfinity;
  Candidate* list = block.merged_list(column);
  int ends[kWarps - 1];
#pragma unroll
  for (int w = 0; w < kWarps - 1; w++) ends[w] = __shfl_sync(kFullWarp, end, w);
  int count = 0;
  constexpr int kUnroll = 2;
#pragma unroll 1
  for (int first = 0; first < total && !wide; first += 32 * kUnroll) {
    Candidate x[kUnroll];
#pragma unroll
    for (int k = 0; k < kUnroll; k++) {
      const int e = first + 32 * k + lane;
      int at = e;
#pragma unroll
      for (int w = 0; w < kWarps - 1; w++) {
        if (e >= ends[w]) at = (w + 1) * kWarpEntries + e - ends[w];
      }
      x[k].upper = -kInfinity;
      if (e < total) x[k] = block.lists[column * capacity + at];
    }
#pragma unroll
    for (int k = 0; k < kUnroll; k++) {
      const bool keep = x[k].upper > floor;
      int kept;
      const int at = count + Warp::Place(keep, kept);
      wide |= count + kept > block.list_capacity;
      if (keep && !wide) list[at] = x[k];
      count += kept;
    }
  }
  __syncwarp();
  if (!wide) {
    const RaisedList raised = RaiseList(list, count, floor, shared.alpha[column], 2);
    count = raised.count;
    floor = raised.floor;
  }
  if (slot != nullptr) {
    const int room = kSlotEntries / PaddedColumns(group.num_columns);
    wide |= count > room;
    Candidate* out = slot->entries + column * room;
#pragma unroll 1
    for (int e = lane; e < count && !wide; e += 32) {
      __stcg(reinterpret_cast<uint4*>(out + e), *reinterpret_cast<const uint4*>(list + e));
    }
  }
  if (lane != 0) return;
  shared.merged[column] = wide ? -1 : count;
  shared.merged_floor[column] = floor;
  if (slot != nullptr) {
    __stcg(&slot->count[column], wide ? -1 : count);
    __stcg(&slot->floor[column], floor);
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
  bool prime = test && pages > 0;
  TileStream<kHeadDim, kShadow> stream(args, group, stages);
  // Whether a key of the page may lie above a column's floor: |mul q| |k| + slope * distance > floor.
  auto keep = [&](int page, int page_id) {
    if (!test || prime) return true;
    const float norm = __ldg(args.page_key_norms +
                             static_cast<int64_t>(page_id) * args.num_kv_heads + group.kv_head);
    const float nearest = static_cast<float>(
        min(page * kPageTokens + kPageTokens - 1, group.end_key - 1) - group.position);
    bool above = false;
#pragma unroll 1
    for (int c = 0; c < group.num_columns; c++) {
      const float bound =
          shared.bound[warp][1][c] * norm * 1.0001f + shared.bound[warp][2][c] * nearest;
      above |= !(bound <= shared.bound[warp][0][c]);
    }
    return above;
  };
  if (prime) {
    stream.Start(newest, 1, 1);
  } else {
    stream.Start(last, kWarps, pages);
  }
  // The queries are asked for before the keys, or they would wait behind them; then prepared while keys are on their way.
  WarpSearch<kHeadDim, kShadow> search(args, group, block.lists + warp * kWarpEntries);
  stream.Fill(keep);
  search.Prepare(args);
  const char* tile;
  TileLabel label;
  int keys = 0, pages_read = 0;
#pragma unroll 1
  for (;;) {
    if (stream.Wait(tile, label)) {
      search.Consume(tile, label, prime);
      if (!prime && label.sub_tile == 0) {
        pages_read++;
        keys += VisibleKeys(group, label.page);
      }
      stream.Release();
    } else if (prime) {
      prime = false;
      stream.Start(last, kWarps, pages);
    } else {
      break;
    }
    if (test) {
      __syncwarp();
      if (g == 0) {
#pragma unroll
        for (int c = 0; c < 2; c++) {
          shared.bound[warp][0][2 * t + c] = search.floor(c);
          shared.bound[warp][1][2 * t + c] = search.norm(c);
          shared.bound[warp][2][2 * t + c] = search.slope(c);
        }
      }
      __syncwarp();
    }
    stream.Fill(keep);
  }
  search.Finish();
  if (g == 0) {
#pragma unroll
    for (int c = 0; c < 2; c++) {
      shared.floor[warp][2 * t + c] = search.floor(c);
      shared.count[warp][2 * t + c] = search.count(c);
    }
  }
  if (lane == 0) {
    shared.pages_read[warp] = pages_read;
    shared.keys_scored[warp] = keys;
  }
  __syncthreads();
  Slot& slot = p.slots[group.first_slot + piece.index];
  MergeBlock(group, block, search.capacity(), group.num_pieces > 1 ? &slot : nullptr);
  if (threadIdx.x == kThreads - 1 && args.stats != nullptr) {
    int all_pages = 0, all_keys = 0;
#pragma unroll 1
    for (int w = 0; w < kWarps; w++) {
      all_pages += shared.pages_read[w];
      all_keys += shared.keys_scored[w];
    }
    __stcg(&slot.pages_read, all_pages);
    __stcg(&slot.keys_scored, all_keys);
  }
}

}  // namespace tauserve::cuda::decode

#endif  // TAUSERVE_KERNELS_CUDA_DECODE_SEARCH_CUH_
