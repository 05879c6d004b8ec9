// A warp's search: scores of tiles against its own floors, candidates into its own lists. Nothing waits for another warp,
// and the outcome doesn't depend on timing.
#ifndef TAUSERVE_KERNELS_CUDA_DECODE_WARP_SEARCH_CUH_
#define TAUSERVE_KERNELS_CUDA_DECODE_WARP_SEARCH_CUH_

#include "kernels/cuda/decode_block.cuh"

namespace tauserve::cuda::decode {

// The lanes that handle one column's list in a warp. Those of the search hold other columns.
struct ListLanes {
  int lanes;  // a column
  int column;
  int rank;
  unsigned group;  // the column's lanes

  __device__ __forceinline__ explicit ListLanes(int padded_columns) {
    const int lane = threadIdx.x & 31;
    lanes = 32 / padded_columns;
    column = lane / lanes;
    rank = lane & (lanes - 1);
    group = ((1u << lanes) - 1) << (lane & ~(lanes - 1));
  }

  __device__ __forceinline__ void Sum(entmax::PowerSums& sums) const {
#pragma unroll
    for (int o = 1; o <= 8; o <<= 1) {
      if (o >= lanes) break;
      sums.s0 += __shfl_xor_sync(kFullWarp, sums.s0, o);
      sums.s1 += __shfl_xor_sync(kFullWarp, sums.s1, o);
      sums.s2 += __shfl_xor_sync(kFullWarp, sums.s2, o);
    }
  }

  // A column's value, from the lane that holds columns 2 (lane % 4) and the next in the search.
  template <typename T>
  __device__ __forceinline__ T OfColumn(T x0, T x1) const {
    x0 = __shfl_sync(kFullWarp, x0, column / 2);
    x1 = __shfl_sync(kFullWarp, x1, column / 2);
    return column % 2 ? x1 : x0;
  }
};

// Stores to shared memory without a branch.
__device__ __forceinline__ void StoreIf(bool condition, uint32_t to, const Candidate& c) {
  asm volatile(
      "{\n .reg .pred p;\n setp.ne.u32 p, %0, 0;\n @p st.shared.v4.b32 [%1], {%2,%3,%4,%5};\n}" ::
          "r"(static_cast<uint32_t>(condition)),
      "r"(to), "f"(c.upper), "f"(c.lower), "r"(c.token), "f"(c.bias)
      : "memory");
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
      : group_(group),
        lists_(lists),
        position_(group.position),
        padded_(PaddedColumns(group.num_columns)) {
    const int t = threadIdx.x & 3;
    capacity_ = min(kMaxListEntries, kWarpEntries / padded_);
#pragma unroll
    for (int c = 0; c < 2; c++) {
      const int column = 2 * t + c;
      const bool live = column < group.num_columns;
      input_[c] = LoadColumn(args, group, column);
      floor_[c] = live ? -kInfinity : kInfinity;
      list_[c] = SharedAddress(lists + (live ? column * capacity_ : 0));
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
      for (int i = 0; i < 4; i++) {
        any |= s.upper[m][i] > floor_[i & 1];
        max_[i & 1] = fmaxf(max_[i & 1], s.Lower(m, i));
      }
    }
    if (__any_sync(kFullWarp, any)) Push(s, first, label);
  }

  // At the end of a piece: raises the floors to what all warps' candidates prove, and hands what is above them to the
  // piece's slot, in the order of warps. By the whole block.
  __device__ __forceinline__ void WriteSlot(Slot& slot, BlockShared& shared) {
    constexpr int kMaxSteps = 3;
    constexpr float kEnough = 24;  // candidates of a column
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const ListLanes lanes(padded_);
    float max;  // of the block
    float floor = SharedFloor(lanes, shared.exchange, max);
    const int count = lanes.OfColumn(count_[0], count_[1]);
    const Candidate* list = lists_ + lanes.column * capacity_;
    const entmax::WeightFunction w =
        entmax::MakeWeightFunction(lanes.OfColumn(alpha_[0], alpha_[1]));
#pragma unroll 1
    for (int step = 1; step <= kMaxSteps; step++) {
      entmax::PowerSums sums;
#pragma unroll 1
      for (int e = lanes.rank; e < count; e += lanes.lanes) {
        const float z = list[e].lower - floor;
        AddPositive(w, z, sums);
        sums.s2 += z > 0;
      }
      lanes.Sum(sums);
      float4* exchange = shared.sums[step & 1];
      if (lanes.rank == 0) {
        exchange[warp * kDecodeColumns + lanes.column] = {sums.s0, sums.s1, sums.s2, 0};
      }
      __syncthreads();
      sums = {};
#pragma unroll 1
      for (int from = lanes.rank; from < kWarps; from += lanes.lanes) {
        const float4 x = exchange[from * kDecodeColumns + lanes.column];
        sums.s0 += x.x;
        sums.s1 += x.y;
        sums.s2 += x.z;
      }
      lanes.Sum(sums);
      floor = RaisedFloor(w, sums, max, floor);
      if (!__any_sync(kFullWarp, sums.s2 > kEnough)) break;  // in every warp alike
    }

    // How many of each warp stay, and where the first of this warp goes.
    const int room = kSlotEntries / padded_, longest = __reduce_max_sync(kFullWarp, count);
    int kept = 0;
#pragma unroll 1
    for (int e = lanes.rank; e - lanes.rank < longest; e += lanes.lanes) {
      const bool keep = e < count && list[e].upper > floor;
      kept += __popc(__ballot_sync(kFullWarp, keep) & lanes.group);
    }
    if (lanes.rank == 0) shared.kept[lanes.column][warp] = kept;
    __syncthreads();
    const int4 low = *reinterpret_cast<const int4*>(&shared.kept[lanes.column][0]);
    const int4 high = *reinterpret_cast<const int4*>(&shared.kept[lanes.column][4]);
    const int all[kWarps] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    int before = 0, total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; w++) {
      before += w < warp ? all[w] : 0;
      total += all[w];
    }
    const bool wide = floor == kInfinity || total > room;
    if (warp == 0 && lanes.rank == 0) {
      __stcg(&slot.count[lanes.column], wide ? -1 : total);
      __stcg(&slot.floor[lanes.column], floor);
    }
    Candidate* to = slot.entries + lanes.column * room + before;
#pragma unroll 1
    for (int e = lanes.rank; e - lanes.rank < longest; e += lanes.lanes) {
      uint4 x = make_uint4(0, 0, 0, 0);
      if (e < count) x = *reinterpret_cast<const uint4*>(list + e);
      const bool keep = e < count && __uint_as_float(x.x) > floor && !wide;
      const unsigned mask = __ballot_sync(kFullWarp, keep) & lanes.group;
      if (keep) __stcg(reinterpret_cast<uint4*>(to + __popc(mask & ((1u << lane) - 1))), x);
      to += __popc(mask);
    }
  }

  // A column outgrew its list: the group won't be finished from candidates.
  __device__ __forceinline__ bool wide() const { return wide_; }
  __device__ __forceinline__ float floor(int c) const { return floor_[c]; }
  __device__ __forceinline__ int count(int c) const { return count_[c]; }
  __device__ __forceinline__ int capacity() const { return capacity_; }
  __device__ __forceinline__ float alpha(int c) const { return alpha_[c]; }
  __device__ __forceinline__ float mul(int c) const { return columns_[c].mul; }
  __device__ __forceinline__ float norm(int c) const { return queries_.norm[c]; }
  __device__ __forceinline__ float slope(int c) const { return columns_[c].slope; }

 private:
  // The best floor that the warps' maxima and floors prove, of the lane's list's column.
  __device__ __forceinline__ float SharedFloor(const ListLanes& lanes,
                                               float2 (*exchange)[kDecodeColumns],
                                               float& max) const {
    static_assert(kWarps == 8);  // as many as lanes of a column in the search
    const int lane = threadIdx.x & 31, g = lane >> 2, column = 2 * (lane & 3);
    float2 best[2];  // maximum, floor
#pragma unroll
    for (int c = 0; c < 2; c++) best[c] = {Group::Max(max_[c]), floor_[c]};
    if (g == 0) {
#pragma unroll
      for (int c = 0; c < 2; c++) exchange[threadIdx.x >> 5][column + c] = best[c];
    }
    __syncthreads();
#pragma unroll
    for (int c = 0; c < 2; c++) {
      best[c] = exchange[g][column + c];
      best[c] = {Group::Max(best[c].x), Group::Max(best[c].y)};
    }
    max = lanes.OfColumn(best[0].x, best[1].x);
    const float floor = lanes.OfColumn(best[0].y, best[1].y);
    return max > -kInfinity ? fmaxf(floor, FloorOfMax(max)) : floor;
  }

  __device__ __forceinline__ float Bias(int c, int key) const {
    return columns_[c].slope * static_cast<float>(key - position_);
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

  // Where the thread's scores above the floors go: behind those of lower lanes of its columns. Both columns' numbers share
  // an integer.
  struct Hits {
    int before[2];  // of lower lanes
    int total[2];
  };

  __device__ __forceinline__ Hits CountHits(const Scores& s) const {
    const int lane = threadIdx.x & 31;
    int mine = 0;
#pragma unroll
    for (int m = 0; m < Shape::kBlocks; m++) {
#pragma unroll
      for (int i = 0; i < 4; i++) mine += s.upper[m][i] > floor_[i & 1] ? 1 << 16 * (i & 1) : 0;
    }
    int sum = mine;
#pragma unroll
    for (int o = 4; o < 32; o <<= 1) {
      const int below = __shfl_up_sync(kFullWarp, sum, o);
      if (lane >= o) sum += below;
    }
    const int all = __shfl_sync(kFullWarp, sum, 28 + (lane & 3));
    sum -= mine;
    return {{sum & 0xffff, sum >> 16}, {all & 0xffff, all >> 16}};
  }

  __device__ __forceinline__ void Raise() {
    const ListLanes lanes(padded_);
    const RaisedList raised =
        RaiseLists(lists_, padded_, capacity_, lanes.OfColumn(count_[0], count_[1]),
                   lanes.OfColumn(floor_[0], floor_[1]), lanes.OfColumn(alpha_[0], alpha_[1]));
#pragma unroll
    for (int c = 0; c < 2; c++) {
      const int mine = 2 * (threadIdx.x & 3) + c;
      const int from = mine * lanes.lanes & 31;
      const int count = __shfl_sync(kFullWarp, raised.count, from);
      const float floor = __shfl_sync(kFullWarp, raised.floor, from);
      if (mine < padded_) {
        count_[c] = count;
        floor_[c] = floor;
      }
    }
  }

  __device__ __forceinline__ bool Full(const Hits& hits, int c) const {
    return count_[c] + hits.total[c] > capacity_;
  }

  // Raises floors where the tile's hits don't fit; a column they still don't fit in is wide.
  __device__ __forceinline__ Hits MakeRoom(const Scores& s) {
    Raise();
    const Hits hits = CountHits(s);
    if (!__any_sync(kFullWarp, Full(hits, 0) || Full(hits, 1))) return hits;
#pragma unroll
    for (int c = 0; c < 2; c++) {
      if (Full(hits, c)) {
        floor_[c] = kInfinity;
        count_[c] = 0;
      }
    }
    wide_ = true;
    return CountHits(s);
  }

  __device__ __forceinline__ void Push(const Scores& s, int first, const TileLabel& label) {
    const int g = (threadIdx.x & 31) >> 2;
    Hits hits = CountHits(s);
    if (__any_sync(kFullWarp, Full(hits, 0) || Full(hits, 1))) hits = MakeRoom(s);
    const uint32_t token =
        static_cast<uint32_t>(label.page_id) * kPageTokens + label.sub_tile * Shape::kKeys + g;
    const float distance = static_cast<float>(first + g - position_);
    uint32_t to[2];
#pragma unroll
    for (int c = 0; c < 2; c++) {
      to[c] = list_[c] + (count_[c] + hits.before[c]) * static_cast<uint32_t>(sizeof(Candidate));
    }
#pragma unroll
    for (int m = 0; m < Shape::kBlocks; m++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int c = i & 1, offset = m * 16 + (i >> 1) * 8;
        const bool hit = s.upper[m][i] > floor_[c];
        StoreIf(hit, to[c],
                {s.upper[m][i], s.Lower(m, i), token + offset,
                 columns_[c].slope * (distance + static_cast<float>(offset))});
        to[c] += hit ? static_cast<uint32_t>(sizeof(Candidate)) : 0;
      }
    }
    count_[0] += hits.total[0];
    count_[1] += hits.total[1];
    __syncwarp();
  }

  const DecodeGroup& group_;
  Candidate* lists_;
  int position_;
  int padded_;  // columns
  int capacity_;
  ColumnInput input_[2];
  Column columns_[2];
  Queries<kHeadDim, kShadow> queries_;
  float alpha_[2];
  float floor_[2];
  float max_[2] = {-kInfinity, -kInfinity};  // of the thread's lower bounds
  int count_[2] = {0, 0};
  bool wide_ = false;
  uint32_t list_[2];  // in shared memory
};

}  // namespace tauserve::cuda::decode

#endif  // TAUSERVE_KERNELS_CUDA_DECODE_WARP_SEARCH_CUH_
