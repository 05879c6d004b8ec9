// How prefill is cut into blocks of work, as host and device code: which rows a block holds, and in which order it reads
// the tiles of keys.
#ifndef TAUSERVE_KERNELS_CUDA_PREFILL_PLAN_H_
#define TAUSERVE_KERNELS_CUDA_PREFILL_PLAN_H_

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/cuda/attention_args.h"
#include "kernels/entmax/host_device.h"

namespace tauserve::cuda {

// The rows of a slice and KV head are its (token, query head of the group) pairs, token by token; 64 of them are a row
// tile, one warpgroup's share, and a block holds the row tiles of its warpgroups.
inline constexpr int kTileRows = 64;

inline TAUSERVE_HOST_DEVICE int CeilDiv(int a, int b) { return (a + b - 1) / b; }

// Which keys [begin, end) the query at a position sees; `total` keys exist.
struct KeyRange {
  int begin;
  int end;
};
inline TAUSERVE_HOST_DEVICE KeyRange VisibleKeys(int position, int total, bool causal, int window) {
  if (!causal) return {0, total};
  const int begin = window > 0 && position + 1 > window ? position + 1 - window : 0;
  return {begin, position + 1};
}

// One block's work. Positions are of its first and last row's tokens.
struct Block {
  int slice;
  int kv_head;
  int first_row;  // in the slice's (token, head) rows
  int index;      // of the block, for its place in the workspace
};

// Blocks of one head, all slices; `rows_per_block` = 64 * warpgroups.
inline TAUSERVE_HOST_DEVICE int BlocksOfSlice(const Slice& slice, int group, int rows_per_block) {
  return CeilDiv(slice.num_tokens * group, rows_per_block);
}

// Work number `index` of all: heads in groups whose keys and values share the L2, in a group the longest blocks of a
// slice first (later rows see more keys), neighbours in time on different heads.
inline TAUSERVE_HOST_DEVICE Block BlockAt(int index, const Slice* slices, int num_slices,
                                          int blocks_per_head, int num_kv_heads, int head_group,
                                          int group, int rows_per_block) {
  const int per_group = blocks_per_head * head_group;
  const int first_head = index / per_group * head_group;
  const int heads = num_kv_heads - first_head < head_group ? num_kv_heads - first_head : head_group;
  const int rest = index - index / per_group * per_group;
  Block block;
  block.kv_head = first_head + rest % heads;
  block.index = index;
  int b = rest / heads;
  int s = 0;
  for (; s + 1 < num_slices; s++) {
    const int blocks = BlocksOfSlice(slices[s], group, rows_per_block);
    if (b < blocks) break;
    b -= blocks;
  }
  block.slice = s;
  block.first_row = (BlocksOfSlice(slices[s], group, rows_per_block) - 1 - b) * rows_per_block;
  return block;
}

// The order of a block's key tiles [first, last]: the last tile that all its rows see whole (`pivot`; good floors for
// all rows at once), the diagonal, the sequence's first keys, then back from the pivot.
struct TileOrder {
  int first;
  int last;
  int pivot;         // < first: there is none
  bool early_first;  // take the first tile early: attention sinks

  TAUSERVE_HOST_DEVICE int Count() const { return last - first + 1; }
  TAUSERVE_HOST_DEVICE int At(int i) const {
    const int from = pivot < first ? first : pivot;
    const int ahead = last - from + 1;  // pivot and diagonal
    if (i < ahead) return from + i;
    const int back = i - ahead;  // among [first, from)
    if (!early_first) return from - 1 - back;
    return back == 0 ? first : from - back;
  }
};

// Rows from position `low` to `high` (the same slice).
inline TAUSERVE_HOST_DEVICE TileOrder MakeTileOrder(int low, int high, int total, bool causal,
                                                    int window, bool biased, int tile_keys) {
  const KeyRange a = VisibleKeys(low, total, causal, window);
  const KeyRange b = VisibleKeys(high, total, causal, window);
  TileOrder order;
  order.first = a.begin / tile_keys;
  order.last = (b.end - 1) / tile_keys;
  order.pivot = a.end / tile_keys - 1;
  order.early_first = !biased;
  return order;
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_PREFILL_PLAN_H_
