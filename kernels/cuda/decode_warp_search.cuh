// A warp's search: scores of tiles against its own floors, candidates into its own lists. Nothing waits for another warp,
// and the outcome doesn't depend on timing.
#ifndef TAUSERVE_KERNELS_CUDA_DECODE_WARP_SEARCH_CUH_
#define TAUSERVE_KERNELS_CUDA_DECODE_WARP_SEARCH_CUH_

#include "kernels/cuda/decode_candidates.cuh"
#include "kernels/cuda/decode_pipeline.cuh"

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

}  // namespace tauserve::cuda::decode

#endif  // TAUSERVE_KERNELS_CUDA_DECODE_WARP_SEARCH_CUH_
