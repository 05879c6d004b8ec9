// The search of a piece: its pages' keys through the block's warps, what they kept merged above the block's best floor.
#ifndef TAUSERVE_KERNELS_CUDA_DECODE_SEARCH_CUH_
#define TAUSERVE_KERNELS_CUDA_DECODE_SEARCH_CUH_

#include "kernels/cuda/decode_block.cuh"
#include "kernels/cuda/decode_warp_search.cuh"

namespace tauserve::cuda::decode {

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
