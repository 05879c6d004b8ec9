// The search of a piece: its pages' keys through the block's warps, what they kept merged above the block's best floor.
#ifndef TAUSERVE_KERNELS_CUDA_DECODE_SEARCH_CUH_
#define TAUSERVE_KERNELS_CUDA_DECODE_SEARCH_CUH_

#include "kernels/cuda/decode_block.cuh"
#include "kernels/cuda/decode_warp_search.cuh"

namespace tauserve::cuda::decode {

// Searches a piece and fills its slot.
template <int kHeadDim, bool kShadow>
__device__ __forceinline__ void SearchPiece(const Params& p, const DecodePiece& piece,
                                            WarpStages& stages) {
  const AttentionArgs& args = p.args;
  const DecodeGroup& group = Shared().piece.group;
  BlockShared& shared = Shared();
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
  WarpSearch<kHeadDim, kShadow> search(args, group, Lists() + warp * kWarpEntries);
  stream.Fill(keep);
  search.Prepare(args);
  if (warp == 0 && g == 0) {
#pragma unroll
    for (int c = 0; c < 2; c++) {
      shared.mul[2 * t + c] = search.mul(c);
      shared.alpha[2 * t + c] = search.alpha(c);
    }
  }
  const char* tile;
  TileLabel label;
  int keys = 0, pages_read = 0;
#pragma unroll 1
  for (;;) {
    if (stream.Wait(tile, label)) {
      if (!search.wide()) search.Consume(tile, label, prime);
      if (!prime && label.sub_tile == 0) {
        pages_read++;
        keys += VisibleKeys(group, label.page);
      }
      stream.Release();
      if (search.wide()) stream.Stop();
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
  if (lane == 0) {
    shared.pages_read[warp] = pages_read;
    shared.keys_scored[warp] = keys;
  }
  Slot& slot = p.slots[group.first_slot + piece.index];
  search.WriteSlot(slot, shared);
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
