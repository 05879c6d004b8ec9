// How both flash kernels cut their work into blocks, on the host.
#ifndef TAUSERVE_KERNELS_CUDA_FLASH_PARAMS_H_
#define TAUSERVE_KERNELS_CUDA_FLASH_PARAMS_H_

#include <algorithm>

#include "kernels/cuda/attention_args.h"
#include "kernels/cuda/prefill_plan.h"

namespace tauserve::cuda {

// A kernel's constants.
struct FlashShapeOf {
  int rows = 0;        // of a block
  int dim = 0;         // at least head_dim
  int tile_pages = 0;  // pages read at once
  int at_once = 0;     // blocks that run on the device together
};

// The rows of a slice and KV head are its (token, softmax head of the KV head) pairs, token by token.
struct FlashParams {
  AttentionArgs args;
  FlashShapeOf shape;
  int group = 0;  // the most softmax heads of a KV head; rows of heads that others lack are dead
  int blocks_per_head = 0;
  int num_blocks = 0;
  int head_group = 1;  // KV heads worked on together
  // Thread blocks that share a block's keys, where there are few blocks. What they make is merged: outputs
  // [num_blocks][parts][rows][dim], not divided, and for each its row's shift and sum.
  int parts = 1;
  float* part_out = nullptr;
  float2* part_sums = nullptr;

  size_t PartRows() const {
    return parts == 1 ? 0 : static_cast<size_t>(num_blocks) * parts * shape.rows;
  }
  size_t PartBytes() const { return PartRows() * (shape.dim * sizeof(float) + sizeof(float2)); }
  void PlaceParts(void* memory) {
    part_out = static_cast<float*>(memory);
    part_sums = reinterpret_cast<float2*>(part_out + PartRows() * shape.dim);
  }
};

inline constexpr int kMostFlashParts = 32;  // a lane each to merge

// The number of parts that takes the fewest rounds of tiles, `tiles` a block. A block's begin and end take about as long
// as some tiles, and so does merging. Many blocks balance by themselves.
inline int ChooseFlashParts(int blocks, int tiles, int at_once) {
  constexpr int kBlockTiles = 3, kMergeTiles = 8;
  if (blocks >= 2 * at_once) return 1;
  int best = 1;
  int64_t best_time = 0;
  for (int parts = 1; parts <= std::min(kMostFlashParts, tiles); parts++) {
    const int64_t rounds = CeilDiv(blocks * parts, at_once);
    const int64_t time =
        rounds * (CeilDiv(tiles, parts) + kBlockTiles) + (parts > 1 ? kMergeTiles : 0);
    if (parts > 1 && time >= best_time) continue;
    best = parts;
    best_time = time;
  }
  return best;
}

// num_blocks is 0 where no head is a softmax head.
inline FlashParams MakeFlashParams(const AttentionArgs& args, const FlashShapeOf& shape) {
  // Of the L2, for keys and values of heads worked on together.
  constexpr int64_t kCacheShare = 34 << 20;
  FlashParams p;
  p.args = args;
  p.shape = shape;
  const int heads = args.num_heads / args.num_kv_heads;
  for (int kv = 0; kv < args.num_kv_heads; kv++) {
    const Head* const first = args.host_heads + kv * heads;
    const auto softmax =
        std::count_if(first, first + heads, [](const Head& head) { return head.alpha == 1; });
    p.group = std::max(p.group, static_cast<int>(softmax));
  }
  int most_keys = 1;
  for (int s = 0; s < args.num_slices; s++) {
    const Slice& slice = args.host_slices[s];
    p.blocks_per_head += BlocksOfSlice(slice, p.group, shape.rows);
    most_keys = std::max(most_keys, slice.context_tokens + slice.num_tokens);
  }
  p.num_blocks = p.blocks_per_head * args.num_kv_heads;
  const int64_t head_bytes = int64_t{most_keys} * args.head_dim * 4;
  p.head_group =
      static_cast<int>(std::clamp<int64_t>(kCacheShare / head_bytes, 1, args.num_kv_heads));
  // A block's keys, of the slice whose blocks see most: half of the new tokens where they are many.
  int block_keys = 1;
  for (int s = 0; s < args.num_slices; s++) {
    const Slice& slice = args.host_slices[s];
    int keys = slice.context_tokens + slice.num_tokens / (args.causal ? 2 : 1);
    if (args.causal && args.sliding_window > 0) keys = std::min(keys, args.sliding_window);
    block_keys = std::max(block_keys, keys);
  }
  const int tiles = CeilDiv(block_keys, shape.tile_pages * kPageTokens);
  p.parts = ChooseFlashParts(p.num_blocks, tiles, shape.at_once);
  return p;
}

// Makes the output of blocks whose keys were read in several parts. After the kernel, on its stream.
void MergeFlashParts(const FlashParams& p);

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_FLASH_PARAMS_H_
