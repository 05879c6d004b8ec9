// The query rows of a block of the flash kernels, and what is counted of them.
#ifndef TAUSERVE_KERNELS_CUDA_FLASH_ROWS_CUH_
#define TAUSERVE_KERNELS_CUDA_FLASH_ROWS_CUH_

#include "kernels/cuda/flash_params.h"
#include "kernels/cuda/stats_atomics.cuh"

namespace tauserve::cuda {

// A query row. Scores are kept as raw dot products plus the bias in the same units; 2^(factor * score) is softmax's
// exponential. A negative scale flips the query's sign; with scale 0 the query counts as zero.
struct FlashRow {
  int head;  // -1: dead, to be computed like the last row and not written
  int token;
  int position;
  float factor;         // > 0
  float slope;          // bias a token of distance
  uint32_t keep, flip;  // query bits: (two & keep) ^ flip
};

__device__ __forceinline__ FlashRow MakeFlashRow(const FlashParams& p, const Slice& slice,
                                                 int kv_head, int r) {
  constexpr float kLog2E = 1.4426950408889634f;
  FlashRow row;
  const int token = r / p.group;
  int nth = r - token * p.group;
  row.token = min(token, slice.num_tokens - 1);
  row.position = slice.context_tokens + row.token;
  row.head = -1;
  row.factor = 1;
  row.slope = 0;
  row.keep = row.flip = 0;
  if (token >= slice.num_tokens) return row;
  const int heads = p.args.num_heads / p.args.num_kv_heads;
  for (int h = kv_head * heads; h < (kv_head + 1) * heads; h++) {
    if (p.args.heads[h].alpha == 1 && nth-- == 0) row.head = h;
  }
  if (row.head < 0) return row;
  float scale = p.args.scale;
  if (p.args.query_scale) {
    const int64_t batch_row = slice.first_row + token;
    scale *= p.args.query_scale[batch_row * p.args.query_scale_stride + row.head];
  }
  row.flip = scale < 0 ? 0x80008000u : 0u;
  row.keep = ~0u;
  scale = fabsf(scale) * kLog2E;
  if (scale < 1e-20f) {
    row.keep = row.flip = 0;
    scale = 1;
  }
  row.factor = scale;
  if (p.args.causal) row.slope = p.args.heads[row.head].alibi_slope * kLog2E / scale;
  return row;
}

__device__ __forceinline__ KeyRange VisibleKeysOf(const AttentionArgs& args, int position,
                                                  int total) {
  return VisibleKeys(position, total, args.causal, args.sliding_window);
}

// Tiles of keys, read from last to first.
struct FlashTiles {
  int first_page, last_page;  // that the block sees a key of, in all parts
  int first, last;            // of the part; none: there are fewer tiles than parts
  int parts;                  // of the block
};

__device__ __forceinline__ FlashTiles TilesOf(const FlashParams& p, const Slice& slice,
                                              int first_row, int part) {
  const int total = slice.context_tokens + slice.num_tokens;
  const int last_token = min((first_row + p.shape.rows - 1) / p.group, slice.num_tokens - 1);
  const KeyRange low = VisibleKeysOf(p.args, slice.context_tokens + first_row / p.group, total);
  const KeyRange high = VisibleKeysOf(p.args, slice.context_tokens + last_token, total);
  FlashTiles tiles;
  tiles.first_page = low.begin / kPageTokens;
  tiles.last_page = (high.end - 1) / kPageTokens;
  const int first = tiles.first_page / p.shape.tile_pages;
  const int count = tiles.last_page / p.shape.tile_pages - first + 1;
  tiles.parts = min(p.parts, count);
  tiles.first = first + count * part / tiles.parts;
  tiles.last = part < tiles.parts ? first + count * (part + 1) / tiles.parts - 1 : -1;
  return tiles;
}

__device__ __forceinline__ Block FlashBlockAt(const FlashParams& p, int index) {
  return BlockAt(index, p.args.slices, p.args.num_slices, p.blocks_per_head, p.args.num_kv_heads,
                 p.head_group, p.group, p.shape.rows);
}

__device__ __forceinline__ bool HasSoftmaxHead(const AttentionArgs& args, int kv_head) {
  const int heads = args.num_heads / args.num_kv_heads;
  bool any = false;
  for (int h = kv_head * heads; h < (kv_head + 1) * heads; h++) any |= args.heads[h].alpha == 1;
  return any;
}

// Adds a warp's rows, one a lane. The first row of a head in a stretch of 64 positions counts the stretch's pages.
__device__ __forceinline__ void CountFlashRow(const AttentionArgs& args, const Slice& slice,
                                              const FlashRow& row, AttentionStats* stats) {
  const int total = slice.context_tokens + slice.num_tokens;
  const KeyRange range = VisibleKeysOf(args, row.position, total);
  int keys = row.head < 0 ? 0 : range.end - range.begin;
  int blocks = 0;
  if (row.head >= 0 && (row.token == 0 || row.position % kPageTokens == 0)) {
    const int last = min(row.position / kPageTokens * kPageTokens + kPageTokens, total) - 1;
    const int end = VisibleKeysOf(args, last, total).end;
    blocks = (end - 1) / kPageTokens - range.begin / kPageTokens + 1;
  }
  // A warp's rows have fewer than 2^31 keys together: 32 * 2^26.
  keys = __reduce_add_sync(~0u, keys);
  blocks = __reduce_add_sync(~0u, blocks);
  if (threadIdx.x % 32 != 0) return;
  AddTo(&stats->keys_considered, static_cast<uint32_t>(keys));
  AddTo(&stats->keys_scored, static_cast<uint32_t>(keys));
  AddTo(&stats->support, static_cast<uint32_t>(keys));
  AddTo(&stats->blocks_considered, blocks);
  AddTo(&stats->blocks_scored, blocks);
  AddTo(&stats->blocks_attended, blocks);
}

// The largest growth of a row's scores over its reference, as an exponent of 2, that leaves the reference as it is. Small:
// the largest weight is rounded to 1, exactly.
inline constexpr float kMostGrowth = 1.0f / 1024;

// Adds the pages that a block of rows read, keys and values.
__device__ __forceinline__ void CountFlashPages(const AttentionArgs& args, int pages,
                                                AttentionStats* stats) {
  AddTo(&stats->pages_considered, pages);
  AddTo(&stats->pages_read, pages);
  AddTo(&stats->kv_bytes_read, int64_t{pages} * 2 * kPageTokens * args.head_dim *
                                   static_cast<int64_t>(sizeof(__nv_bfloat16)));
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_FLASH_ROWS_CUH_
