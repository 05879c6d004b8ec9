// The Hopper flash kernel's shared memory, and the warp that fills it.
#ifndef TAUSERVE_KERNELS_CUDA_FLASH_SM90_PRODUCER_CUH_
#define TAUSERVE_KERNELS_CUDA_FLASH_SM90_PRODUCER_CUH_

#include "kernels/cuda/flash_rows.cuh"
#include "kernels/cuda/hopper.h"

namespace tauserve::cuda {

struct FlashSm90Params : FlashParams {
  int32_t* next_block = nullptr;  // zero before the launch
};

// A row's constants, in shared memory: the loop over tiles has no registers for them.
struct FlashSm90Row {
  FlashRow row;
  int32_t batch_row;
  KeyRange visible;
};

// Keys and values are in tiles of two pages, each in chunks of 64 columns: [chunk][key][64 columns], swizzled.
template <int kDim>
struct FlashSm90Shape {
  static constexpr int kWarpgroups = kDim <= 64 ? 3 : 2;
  static constexpr int kRows = kTileRows * kWarpgroups;
  static constexpr int kThreads = 128 * (kWarpgroups + 1);
  static constexpr int kTileKeys = 2 * kPageTokens;
  static constexpr int kStages = kDim <= 64 ? 3 : 2;
  static constexpr int kChunkBytes = kTileKeys * 128;
  static constexpr int kTileBytes = kTileKeys * kDim * 2;
  static constexpr int kQueryBytes = kRows * kDim * 2;
  static constexpr int kControlBytes = 256;
  static constexpr int kSharedBytes = 1024 + 2 * kStages * kTileBytes + kQueryBytes +
                                      kRows * static_cast<int>(sizeof(FlashSm90Row)) +
                                      kControlBytes;  // 1024 to align the tiles
};

// Barriers: `full` when a tile has come, `empty` when all warpgroups have read it.
template <int kStages>
struct FlashSm90Control {
  static constexpr int kBlocks = 2;  // announced ahead
  uint64_t key_full[kStages], key_empty[kStages];
  uint64_t value_full[kStages], value_empty[kStages];
  uint64_t block_full[kBlocks], block_empty[kBlocks];
  int32_t block[kBlocks];  // num_blocks: the end
};

// Where a ring's reader or writer is. Writers begin with parity 1: nothing to wait for in the first round.
template <int kCount>
struct RingPlace {
  uint32_t parity;
  int at = 0;
  __device__ __forceinline__ void Advance() {
    if (++at == kCount) {
      at = 0;
      parity ^= 1;
    }
  }
};

// The tiles of a block of rows, read from last to first.
struct FlashTileRange {
  int first_page, last_page;  // that any row sees a key of
  int first, last;            // tiles
};
template <int kDim>
__device__ __forceinline__ FlashTileRange TilesOf(const FlashParams& p, const Slice& slice,
                                                  int first_row) {
  using Shape = FlashSm90Shape<kDim>;
  const int total = slice.context_tokens + slice.num_tokens;
  const int low = slice.context_tokens + first_row / p.group;
  const int high =
      slice.context_tokens + min((first_row + Shape::kRows - 1) / p.group, slice.num_tokens - 1);
  FlashTileRange range;
  range.first_page = VisibleKeysOf(p.args, low, total).begin / kPageTokens;
  range.last_page = (VisibleKeysOf(p.args, high, total).end - 1) / kPageTokens;
  range.first = range.first_page / 2;
  range.last = range.last_page / 2;
  return range;
}

template <int kDim>
struct FlashSm90Producer {
  using Shape = FlashSm90Shape<kDim>;
  using Control = FlashSm90Control<Shape::kStages>;

  const FlashSm90Params& p;
  const CUtensorMap* keys;
  const CUtensorMap* values;
  Control& control;
  uint32_t key_tiles, value_tiles;  // shared addresses
  RingPlace<Shape::kStages> stage{1};
  RingPlace<Control::kBlocks> announced{1};

  // One thread.
  __device__ __forceinline__ void Run() {
    const int heads = p.args.num_heads / p.args.num_kv_heads;
    for (;;) {
      const int index = min(atomicAdd(p.next_block, 1), p.num_blocks);
      Block block;
      if (index < p.num_blocks) {
        block = BlockAt(index, p.args.slices, p.args.num_slices, p.blocks_per_head,
                        p.args.num_kv_heads, p.head_group, p.group, Shape::kRows);
        bool any = false;
        for (int h = 0; h < heads; h++) any |= p.args.heads[block.kv_head * heads + h].alpha == 1;
        if (!any) continue;
      }
      BarrierWait(SharedAddress(&control.block_empty[announced.at]), announced.parity);
      control.block[announced.at] = index;
      BarrierArrive(SharedAddress(&control.block_full[announced.at]));
      announced.Advance();
      if (index == p.num_blocks) return;
      SendTiles(block);
    }
  }

  __device__ __forceinline__ void SendTiles(const Block& block) {
    const Slice slice = p.args.slices[block.slice];
    const FlashTileRange range = TilesOf<kDim>(p, slice, block.first_row);
    const int32_t* pages = p.args.page_table + slice.first_page;
    for (int tile = range.last; tile >= range.first; tile--) {
      int row[2];  // of the pools
#pragma unroll
      for (int i = 0; i < 2; i++) {
        // Half a tile may lie outside; its scores are masked.
        const int page = min(max(2 * tile + i, range.first_page), range.last_page);
        row[i] = (pages[page] * p.args.num_kv_heads + block.kv_head) * kPageTokens;
      }
      Copy(keys, key_tiles, control.key_full, control.key_empty, row);
      Copy(values, value_tiles, control.value_full, control.value_empty, row);
      stage.Advance();
    }
  }

  __device__ __forceinline__ void Copy(const CUtensorMap* map, uint32_t tiles, uint64_t* full,
                                       uint64_t* empty, const int (&row)[2]) {
    BarrierWait(SharedAddress(&empty[stage.at]), stage.parity);
    const uint32_t barrier = SharedAddress(&full[stage.at]);
    BarrierArriveExpect(barrier, Shape::kTileBytes);
#pragma unroll
    for (int c = 0; c < kDim / 64; c++) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        CopyBox(
            tiles + stage.at * Shape::kTileBytes + c * Shape::kChunkBytes + i * (kPageTokens * 128),
            map, barrier, c * 64, row[i]);
      }
    }
  }
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_FLASH_SM90_PRODUCER_CUH_
