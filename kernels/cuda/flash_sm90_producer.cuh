// The Hopper flash kernel's shared memory, and the warp that fills it.
#ifndef TAUSERVE_KERNELS_CUDA_FLASH_SM90_PRODUCER_CUH_
#define TAUSERVE_KERNELS_CUDA_FLASH_SM90_PRODUCER_CUH_

#include "kernels/cuda/flash_rows.cuh"
#include "kernels/cuda/hopper.h"

namespace tauserve::cuda {

struct FlashSm90Params : FlashParams {
  int32_t* next_part = nullptr;  // of all parts of all blocks; zero before the launch
};

// A row's constants, in shared memory: the loop over tiles has no registers for them.
struct FlashSm90Row {
  FlashRow row;
  int32_t batch_row;
  KeyRange visible;
};

// Keys and values are in tiles of one or two pages, in chunks of 64 columns: [chunk][key][64 columns], swizzled.
template <int kDim>
struct FlashSm90Shape {
  static constexpr int kWarpgroups = kDim <= 64 ? 3 : 2;
  static constexpr int kRows = kTileRows * kWarpgroups;
  static constexpr int kThreads = 128 * (kWarpgroups + 1);
  static constexpr int kTilePages = kDim <= 128 ? 2 : 1;
  static constexpr int kTileKeys = kTilePages * kPageTokens;
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
  static constexpr int kParts = 2;  // announced ahead
  uint64_t key_full[kStages], key_empty[kStages];
  uint64_t value_full[kStages], value_empty[kStages];
  uint64_t part_full[kParts], part_empty[kParts];
  int32_t part[kParts];  // as many as there are: the end
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
  RingPlace<Control::kParts> announced{1};

  // One thread. With one place that announces and one way out; with more, ptxas (13.0) takes the consumers' registers for
  // too few and serializes their products.
  __device__ __forceinline__ void Run() {
    const int end = p.num_blocks * p.parts;
    for (;;) {
      const int part = min(atomicAdd(p.next_part, 1), end);
      Block block;
      Slice slice;
      FlashTiles tiles;
      if (part < end) {
        block = FlashBlockAt(p, part / p.parts);
        slice = p.args.slices[block.slice];
        tiles = TilesOf(p, slice, block.first_row, part % p.parts);
        if (tiles.last < tiles.first || !HasSoftmaxHead(p.args, block.kv_head)) continue;
      }
      BarrierWait(SharedAddress(&control.part_empty[announced.at]), announced.parity);
      control.part[announced.at] = part;
      BarrierArrive(SharedAddress(&control.part_full[announced.at]));
      announced.Advance();
      if (part == end) return;
      SendTiles(block.kv_head, p.args.page_table + slice.first_page, tiles);
    }
  }

  __device__ __forceinline__ void SendTiles(int kv_head, const int32_t* pages,
                                            const FlashTiles& tiles) {
    for (int tile = tiles.last; tile >= tiles.first; tile--) {
      int row[Shape::kTilePages];  // of the pools
#pragma unroll
      for (int i = 0; i < Shape::kTilePages; i++) {
        // Half a tile may lie outside; its scores are masked.
        const int page = min(max(Shape::kTilePages * tile + i, tiles.first_page), tiles.last_page);
        row[i] = (pages[page] * p.args.num_kv_heads + kv_head) * kPageTokens;
      }
      Copy(keys, key_tiles, control.key_full, control.key_empty, row);
      Copy(values, value_tiles, control.value_full, control.value_empty, row);
      stage.Advance();
    }
  }

  __device__ __forceinline__ void Copy(const CUtensorMap* map, uint32_t tiles, uint64_t* full,
                                       uint64_t* empty, const int (&row)[Shape::kTilePages]) {
    BarrierWait(SharedAddress(&empty[stage.at]), stage.parity);
    const uint32_t barrier = SharedAddress(&full[stage.at]);
    BarrierArriveExpect(barrier, Shape::kTileBytes);
#pragma unroll
    for (int c = 0; c < kDim / 64; c++) {
#pragma unroll
      for (int i = 0; i < Shape::kTilePages; i++) {
        CopyBox(
            tiles + stage.at * Shape::kTileBytes + c * Shape::kChunkBytes + i * (kPageTokens * 128),
            map, barrier, c * 64, row[i]);
      }
    }
  }
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_FLASH_SM90_PRODUCER_CUH_
