// The search kernel of prefill_sm90.h. A block has W consumer warpgroups, each with 64 query rows (a row tile), and a
// producer warp that fills a ring of stages with tiles of 128 keys. Blocks are persistent: the producer takes the next
// block of rows while the consumers finish the last, and each stage's message says what it holds.
#ifndef TAUSERVE_KERNELS_CUDA_PREFILL_SEARCH_H_
#define TAUSERVE_KERNELS_CUDA_PREFILL_SEARCH_H_

#include "kernels/cuda/candidate_lists.h"
#include "kernels/cuda/hopper.h"
#include "kernels/cuda/prefill_params.h"

namespace tauserve::cuda {

inline constexpr int kSearchKeys = 128;     // of a tile: two pages
inline constexpr int kAttendedBits = 4096;  // pages told apart in blocks_attended; more share bits

// A stage's message: a key tile (>= 0), or a new block, or the end.
struct StageMessage {
  static constexpr int kNewBlock = -1;
  static constexpr int kEnd = -2;
  int32_t tile;
  int32_t slice;
  int32_t kv_head;
  int32_t first_row;
  int32_t index;
  float key_norm;    // largest of the block's keys, 0 = unknown
  int32_t sequence;  // number of the block in this thread block
  int32_t part;      // of the block's keys
};

template <int kDim, int kWarpgroups>
struct SearchShape {
  static constexpr int kChunks = (kDim + 63) / 64;
  static constexpr int kStageBytes = kSearchKeys * 128 * kChunks;
  // One stage more costs lists their room, which wide rows need more: at 128k, sigma 1, d = 128, 3 stages took 142 ms and
  // 2 took 96; at 16k, sigma 2, both 1.76.
  static constexpr int kStages = kChunks == 1 ? 3 : 2;
  static constexpr int kRows = kTileRows * kWarpgroups;
  static constexpr int kConsumers = 128 * kWarpgroups;
  static constexpr int kThreads = kConsumers + 128;
  static constexpr int kBiasBytes = kSearchKeys * 16 * 2;
  static constexpr int kBitmapBytes = kWarpgroups * kAttendedBits / 8;
  static constexpr int kControlBytes = 1024 + kRows * 20;  // SearchControl
  static constexpr int kSharedLimit = 232448;
  static constexpr int kStep = kConsumers * 8;  // of a candidate list
  static constexpr int kFixedBytes =
      1024 + kStages * kStageBytes + kBiasBytes + kBitmapBytes + kControlBytes;
  static constexpr int kRoom = (kSharedLimit - kFixedBytes) / kStep;
  static constexpr int kCapacity = kRoom < ExchangeSlot::kEntries ? kRoom : ExchangeSlot::kEntries;
  static constexpr int kSharedBytes = kFixedBytes + kCapacity * kStep;
};

// What a row tile's loop seldom needs of a row, and of the warpgroup's rows together: kept out of registers.
struct RowConstants {
  float alpha;
  float slope;
  float query_norm;
  float inverse_width;
  int position;
};
struct RowTileKeys {
  KeyRange visible;  // by some row of the warpgroup
  KeyRange whole;    // by every row of it
  int total;         // keys of the slice
};

// Shared memory behind the stages, the bias columns and the bitmaps.
template <int kStages, int kWarpgroups>
struct SearchControl {
  StageMessage message[kStages];
  StageMessage block[kWarpgroups * 4];  // a warp's current block: a copy, to free its stage
  uint64_t full[kStages];
  uint64_t empty[kStages];
  RowTileKeys keys[kWarpgroups * 4];  // equal in the warps of a warpgroup
  RowConstants row[kWarpgroups * kTileRows];
  int64_t
      oldest_key[kWarpgroups * 4];  // sequence << 32 | first key that a warp still needs (ALiBi)
  int32_t merged[kWarpgroups];      // what PrefillParams::merged was
  int32_t
      stopped[kWarpgroups];  // sequence of the last block that a warpgroup left to the dense kernel
};

// ---- Producer

template <typename Element, int kDim, int kWarpgroups>
struct SearchProducer {
  using Shape = SearchShape<kDim, kWarpgroups>;
  using Control = SearchControl<Shape::kStages, kWarpgroups>;
  static constexpr int kStages = Shape::kStages;

  const PrefillParams<Element>& p;
  const CUtensorMap* keys;
  Control& control;
  uint32_t stages;
  int lane;
  int stage = 0;
  uint32_t parity = 1;  // an empty ring's first waits return at once

  __device__ __forceinline__ void Advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
  __device__ __forceinline__ void Send(const StageMessage& message) {
    BarrierWait(SharedAddress(&control.empty[stage]), parity);
    control.message[stage] = message;
    BarrierArrive(SharedAddress(&control.full[stage]));
    Advance();
  }
  // A tile's pages that hold visible keys; other rows of the stage keep what they had, and are masked.
  __device__ __forceinline__ void SendTile(const StageMessage& block, const Slice& slice, int tile,
                                           int first_page, int last_page) {
    BarrierWait(SharedAddress(&control.empty[stage]), parity);
    control.message[stage].tile = tile;
    const uint32_t full = SharedAddress(&control.full[stage]);
    const int from = max(tile * 2, first_page), to = min(tile * 2 + 1, last_page);
    BarrierArriveExpect(full, (to - from + 1) * kPageTokens * 128 * Shape::kChunks);
    for (int page = from; page <= to; page++) {
      const int id = p.args.page_table[slice.first_page + page];
      const int row = (id * p.args.num_kv_heads + block.kv_head) * kPageTokens;
      for (int c = 0; c < Shape::kChunks; c++) {
        CopyBox(stages + stage * Shape::kStageBytes + c * (kSearchKeys * 128) +
                    (page & 1) * (kPageTokens * 128),
                keys, full, c * 64, row);
      }
    }
    Advance();
  }

  __device__ __forceinline__ bool AllStopped(int sequence) const {
    for (int w = 0; w < kWarpgroups; w++) {
      if (LoadRelaxed(&control.stopped[w]) != sequence) return false;
    }
    return true;
  }
  __device__ __forceinline__ int OldestKey(int sequence) const {
    int oldest = INT32_MAX;
    for (int w = 0; w < kWarpgroups * 4; w++) {
      const int64_t x = LoadRelaxed(&control.oldest_key[w]);
      oldest = min(oldest, static_cast<int32_t>(x >> 32) == sequence ? static_cast<int32_t>(x) : 0);
    }
    return oldest;
  }

  // The whole warp: one lane sends, all look up key norms.
  __device__ void Run() {
    for (int sequence = 1;; sequence++) {
      int index = 0;
      if (lane == 0) index = atomicAdd(&p.counters->next_block, 1);
      index = __shfl_sync(~0u, index, 0);
      StageMessage message{};
      if (index >= p.num_blocks * p.parts) {
        message.tile = StageMessage::kEnd;
        if (lane == 0) Send(message);
        return;
      }
      message.part = index % p.parts;
      RunBlock(index / p.parts, sequence, message);
      __syncwarp();
    }
  }

  __device__ void RunBlock(int index, int sequence, StageMessage& message) {
    const Block block = BlockAt(index, p.args.slices, p.args.num_slices, p.blocks_per_head,
                                p.args.num_kv_heads, p.head_group, p.group, Shape::kRows);
    const Slice slice = p.args.slices[block.slice];
    const int total = slice.context_tokens + slice.num_tokens;
    const int low = slice.context_tokens + block.first_row / p.group;
    const int high = slice.context_tokens +
                     min((block.first_row + Shape::kRows - 1) / p.group, slice.num_tokens - 1);
    float slope = 0;
    for (int g = 0; g < p.group; g++) {
      slope = fmaxf(slope, p.args.heads[block.kv_head * p.group + g].alibi_slope);
    }
    const bool biased = p.args.causal && slope > 0;
    const TileOrder order =
        MakeTileOrder(low, high, total, p.args.causal, p.args.sliding_window, biased, kSearchKeys);
    const int first_page =
        VisibleKeys(low, total, p.args.causal, p.args.sliding_window).begin / kPageTokens;
    const int last_page =
        (VisibleKeys(high, total, p.args.causal, p.args.sliding_window).end - 1) / kPageTokens;
    float norm = 0;
    if (biased && p.PageKeyNorms()) {
      for (int page = first_page + lane; page <= last_page; page += 32) {
        const int id = p.args.page_table[slice.first_page + page];
        norm = fmaxf(norm, p.PageKeyNorms()[id * p.args.num_kv_heads + block.kv_head]);
      }
      norm = __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(norm)));
    }
    if (lane != 0) return;
    message.tile = StageMessage::kNewBlock;
    message.slice = block.slice;
    message.kv_head = block.kv_head;
    message.first_row = block.first_row;
    message.index = index;
    message.key_norm = norm;
    message.sequence = sequence;
    Send(message);
    // A block whose distance bound leaves few tiles is not shared: floors from far parts would be low.
    const bool shared = norm == 0;
    const int first = shared || message.part == 0 ? message.part : order.Count();
    int sent = 0;
    for (int i = first; i < order.Count(); i += shared ? p.parts : 1) {
      const int tile = order.At(i);
      if (AllStopped(sequence)) break;
      if (norm > 0 && tile < order.pivot && (tile + 1) * kSearchKeys <= OldestKey(sequence)) break;
      SendTile(message, slice, tile, first_page, last_page);
      sent++;
    }
    if (p.Stats()) {
      const int pages = min(2 * sent, last_page - first_page + 1);
      AttentionStats* stats = p.Stats() + block.slice;
      if (message.part == 0) AddTo(&stats->pages_considered, last_page - first_page + 1);
      AddTo(&stats->pages_read, pages);
      AddTo(&stats->kv_bytes_read, static_cast<int64_t>(pages) * kPageTokens * kDim * 2);
    }
  }
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_PREFILL_SEARCH_H_
