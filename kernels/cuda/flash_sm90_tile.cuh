// A consumer warpgroup of the Hopper flash kernel: 64 query rows of each block.
#ifndef TAUSERVE_KERNELS_CUDA_FLASH_SM90_TILE_CUH_
#define TAUSERVE_KERNELS_CUDA_FLASH_SM90_TILE_CUH_

#include <cfloat>

#include "kernels/cuda/flash_mma.cuh"
#include "kernels/cuda/flash_sm90_producer.cuh"

namespace tauserve::cuda {

template <int kDim>
struct FlashSm90Tile {
  using Shape = FlashSm90Shape<kDim>;
  using Control = FlashSm90Control<Shape::kStages>;
  static constexpr int kWarpgroups = Shape::kWarpgroups;
  static constexpr int kKeys = Shape::kTileKeys;
  // Accumulators of the output, 64 or 128 columns each.
  static constexpr int kOutputs = kDim <= 128 ? 1 : 2;
  static constexpr int kOutputSize = kDim / kOutputs / 2;

  const FlashSm90Params& p;
  Control& control;
  const uint32_t key_tiles, value_tiles;  // shared addresses
  char* const value_memory;
  char* const query;         // of the warpgroup, unswizzled
  FlashSm90Row* const rows;  // of the warpgroup
  const int warpgroup, warp, lane;
  RingPlace<Shape::kStages> key_stage{0}, value_stage{0};
  RingPlace<Control::kParts> announced{0};

  // Of the thread's rows 16 * warp + lane / 4 + 8 h.
  float factor[2];
  float shift[2];  // -factor * reference: exponentials are 2^(factor * score + shift)
  float sum[2];
  int part;                     // among all parts of all blocks; -1: the block has one only
  int first_tile, last_tile;    // are read from last to first
  int first_plain, last_plain;  // tiles between need neither mask nor bias

  __device__ __forceinline__ const FlashSm90Row& RowOf(int h) const {
    return rows[warp * 16 + lane / 4 + 8 * h];
  }

  __device__ __forceinline__ void Arrive(uint64_t& barrier) const {
    __syncwarp();
    if (lane == 0) BarrierArrive(SharedAddress(&barrier));
  }

  __device__ __forceinline__ void Run() {
    for (;;) {
      BarrierWait(SharedAddress(&control.part_full[announced.at]), announced.parity);
      part = control.part[announced.at];
      Arrive(control.part_empty[announced.at]);
      announced.Advance();
      if (__any_sync(~0u, part == p.num_blocks * p.parts)) return;
      Start();
      Attend();
    }
  }

  __device__ __forceinline__ void Start() {
    const Block block = FlashBlockAt(p, part / p.parts);
    const Slice slice = p.args.slices[block.slice];
    const int total = slice.context_tokens + slice.num_tokens;
    const FlashTiles tiles = TilesOf(p, slice, block.first_row, part % p.parts);
    AttentionStats* const stats =
        p.args.stats && part % p.parts == 0 ? p.args.stats + block.slice : nullptr;
    first_tile = tiles.first;
    last_tile = tiles.last;
    bool slopes = false;
    // The block before is done with the memory in all warps.
    WarpgroupSync(1 + warpgroup);
    if (warp < 2) {
      const int r = warp * 32 + lane;
      const FlashRow row =
          MakeFlashRow(p, slice, block.kv_head, block.first_row + warpgroup * kTileRows + r);
      rows[r] = {row, slice.first_row + row.token, VisibleKeysOf(p.args, row.position, total)};
      slopes = row.slope != 0;
      if (stats) CountFlashRow(p.args, slice, row, stats);
    } else if (stats && warpgroup == 0 && warp == 2 && lane == 0) {
      CountFlashPages(p.args, tiles.last_page - tiles.first_page + 1, stats);
    }
    if (tiles.parts == 1) part = -1;
    const bool biased = WarpgroupCount(1 + warpgroup, slopes) > 0;
    CopyQueries();
    first_plain = CeilDiv(rows[kTileRows - 1].visible.begin, kKeys);
    last_plain = biased ? -1 : rows[0].visible.end / kKeys - 1;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      factor[h] = RowOf(h).row.factor;
      shift[h] = FLT_MAX;
      sum[h] = 0;
    }
    // Only the first tile read can hold unused slots of values.
    const int begin = last_tile * kKeys, first_key = tiles.first_page * kPageTokens;
    if (begin + kKeys > total || first_key > begin) ClearUnused(first_key, total);
    AsyncProxyFence();
    WarpgroupSync(1 + warpgroup);
  }

  // Two threads a row copy its query to shared memory: 8 x 8 matrices, those of 8 rows side by side.
  __device__ __forceinline__ void CopyQueries() {
    const int r = threadIdx.x % 128 / 2;
    const FlashRow& row = rows[r].row;
    const __nv_bfloat16* from =
        p.args.q + rows[r].batch_row * p.args.q_stride + row.head * p.args.head_dim;
#pragma unroll 4
    for (int c = threadIdx.x % 2; c < kDim / 8; c += 2) {
      uint4 x = make_uint4(0, 0, 0, 0);
      if (row.keep != 0 && c * 8 < p.args.head_dim) {
        x = *reinterpret_cast<const uint4*>(from + c * 8);
      }
      x = make_uint4(x.x ^ row.flip, x.y ^ row.flip, x.z ^ row.flip, x.w ^ row.flip);
      *reinterpret_cast<uint4*>(query + r / 8 * (kDim * 16) + c * 128 + r % 8 * 16) = x;
    }
  }

  // Values of unused slots may be NaN, and zero times NaN is none. All warpgroups.
  __device__ __forceinline__ void ClearUnused(int first_key, int total) {
    BarrierWait(SharedAddress(&control.value_full[value_stage.at]), value_stage.parity);
    char* const tile = value_memory + value_stage.at * Shape::kTileBytes;
    const int begin = last_tile * kKeys;
    constexpr int kPieces = Shape::kTileBytes / 16;
    for (int i = threadIdx.x; i < kPieces; i += 128 * kWarpgroups) {
      const int key = begin + i / 8 % kKeys;
      if (key >= total || key < first_key) {
        *reinterpret_cast<uint4*>(tile + i * 16) = make_uint4(0, 0, 0, 0);
      }
    }
    AsyncProxyFence();
    asm volatile("bar.sync %0, %1;" ::"n"(1 + kWarpgroups), "n"(128 * kWarpgroups) : "memory");
  }

  __device__ __forceinline__ void IssueScores(float (&score)[kKeys / 2]) {
    const uint64_t keys = RowDescriptor(key_tiles + key_stage.at * Shape::kTileBytes);
    const uint64_t queries = PlainDescriptor(SharedAddress(query), 128, kDim * 16);
#pragma unroll
    for (int k = 0; k < kDim / 16; k++) {
      const uint64_t a = queries + k * 16;
      const uint64_t b = keys + k / 4 * (Shape::kChunkBytes / 16) + k % 4 * 2;
      if constexpr (kKeys == 64) {
        WgmmaN64Shared(score, a, b, k > 0);
      } else {
        WgmmaN128Shared(score, a, b, k > 0);
      }
    }
    WgmmaCommit();
  }

  __device__ __forceinline__ void IssueOutput(float (&out)[kOutputs][kOutputSize],
                                              const uint32_t (&weight)[kKeys / 16][4]) {
    const uint64_t values =
        ColumnDescriptor(value_tiles + value_stage.at * Shape::kTileBytes, Shape::kChunkBytes);
#pragma unroll
    for (int k = 0; k < kKeys / 16; k++) {
#pragma unroll
      for (int i = 0; i < kOutputs; i++) {
        const uint64_t b = values + i * (2 * Shape::kChunkBytes / 16) + k * 128;
        if constexpr (kDim == 64) {
          WgmmaN64</*kAcross=*/true>(out[i], weight[k], b, 1);
        } else {
          WgmmaN128</*kAcross=*/true>(out[i], weight[k], b, 1);
        }
      }
    }
    WgmmaCommit();
  }

  static __device__ __forceinline__ void PinOutputs(float (&out)[kOutputs][kOutputSize]) {
#pragma unroll
    for (int i = 0; i < kOutputs; i++) PinAccumulators(out[i]);
  }

  __device__ __forceinline__ void Attend() {
    float out[kOutputs][kOutputSize];
#pragma unroll
    for (int i = 0; i < kDim / 2; i++) out[i / kOutputSize][i % kOutputSize] = 0;
    float score[kKeys / 2];
    uint32_t weight[kKeys / 16][4];
    float scale[2];

    BarrierWait(SharedAddress(&control.key_full[key_stage.at]), key_stage.parity);
    PinAccumulators(score);
    WgmmaFence();
    IssueScores(score);
    WgmmaWait<0>();
    PinAccumulators(score);
    Arrive(control.key_empty[key_stage.at]);
    key_stage.Advance();
    Mask(score, last_tile);
    MakeWeights(score, scale);
    Pack(score, weight);
    for (int tile = last_tile - 1; tile >= first_tile; tile--) {
      BarrierWait(SharedAddress(&control.key_full[key_stage.at]), key_stage.parity);
      BarrierWait(SharedAddress(&control.value_full[value_stage.at]), value_stage.parity);
      PinAccumulators(score);
      PinOutputs(out);
      WgmmaFence();
      IssueScores(score);
      IssueOutput(out, weight);
      WgmmaWait<1>();
      PinAccumulators(score);
      Arrive(control.key_empty[key_stage.at]);
      key_stage.Advance();
      if (tile < first_plain || tile > last_plain) Mask(score, tile);
      const uint32_t grown = MakeWeights(score, scale);
      // Never true. It needs all weights, so that they are made before the wait: ptxas moves waits up in their block.
      if (sum[0] + sum[1] < 0) __trap();
      WgmmaWait<0>();
      PinOutputs(out);
      Arrive(control.value_empty[value_stage.at]);
      value_stage.Advance();
#pragma unroll
      for (int h = 0; h < 2; h++) {
        if ((grown >> h & 1) == 0) continue;
#pragma unroll
        for (int i = 0; i < kDim / 4; i++) {
          const int at = i / 2 * 4 + 2 * h + i % 2;
          out[at / kOutputSize][at % kOutputSize] *= scale[h];
        }
      }
      Pack(score, weight);
    }
    BarrierWait(SharedAddress(&control.value_full[value_stage.at]), value_stage.parity);
    PinOutputs(out);
    WgmmaFence();
    IssueOutput(out, weight);
    WgmmaWait<0>();
    PinOutputs(out);
    Arrive(control.value_empty[value_stage.at]);
    value_stage.Advance();
    Write(out);
  }

  // The bias, and -infinity for keys that a row doesn't see.
  __device__ __forceinline__ void Mask(float (&score)[kKeys / 2], int tile) const {
    const int first = tile * kKeys + 2 * (lane % 4);
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const FlashSm90Row& row = RowOf(h);
      const KeyRange range = row.visible;
      const float slope = row.row.slope;
      const float bias = slope * static_cast<float>(first - row.row.position);
#pragma unroll
      for (int i = 0; i < kKeys / 4; i++) {
        const int place = i / 2 * 8 + i % 2;
        float& x = score[i / 2 * 4 + 2 * h + i % 2];
        x += fmaf(slope, static_cast<float>(place), bias);
        if (first + place < range.begin || first + place >= range.end) x = -INFINITY;
      }
    }
  }

  // Scores become weights, in units of the rows' references. Bit h: a reference rose among the warp's rows h, and what
  // was summed up before is to be multiplied by scale[h].
  __device__ __forceinline__ uint32_t MakeWeights(float (&score)[kKeys / 2], float (&scale)[2]) {
    uint32_t grown = 0;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float most = fmaxf(score[2 * h], score[2 * h + 1]);
#pragma unroll
      for (int i = 1; i < kKeys / 8; i++) {
        most = fmaxf(most, fmaxf(score[i * 4 + 2 * h], score[i * 4 + 2 * h + 1]));
      }
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
      const bool rises = __any_sync(~0u, fmaf(most, factor[h], shift[h]) > kMostGrowth);
      const float now = rises ? fminf(shift[h], -most * factor[h]) : shift[h];
      scale[h] = PowerOf2(now - shift[h]);
      shift[h] = now;
      sum[h] *= scale[h];
      grown |= rises << h;
    }
#pragma unroll
    for (int i = 0; i < kKeys / 4; i++) {
      const int h = i % 2;
      float* pair = &score[2 * i];
      pair[0] = PowerOf2(fmaf(pair[0], factor[h], shift[h]));
      pair[1] = PowerOf2(fmaf(pair[1], factor[h], shift[h]));
      sum[h] += pair[0] + pair[1];
    }
    return grown;
  }

  static __device__ __forceinline__ void Pack(const float (&score)[kKeys / 2],
                                              uint32_t (&weight)[kKeys / 16][4]) {
#pragma unroll
    for (int i = 0; i < kKeys / 4; i++)
      weight[i / 4][i % 4] = PackPair(score[2 * i], score[2 * i + 1]);
  }

  __device__ __forceinline__ void Write(const float (&out)[kOutputs][kOutputSize]) const {
    const auto at = [&](int i) { return out[i / kOutputSize][i % kOutputSize]; };
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float all = sum[h] + __shfl_xor_sync(~0u, sum[h], 1);
      all += __shfl_xor_sync(~0u, all, 2);
      if (part >= 0) {
        const int64_t row =
            int64_t{part} * Shape::kRows + warpgroup * kTileRows + warp * 16 + lane / 4 + 8 * h;
        float2* to = reinterpret_cast<float2*>(p.part_out + row * kDim) + lane % 4;
#pragma unroll
        for (int i = 0; i < kDim / 8; i++) {
          to[4 * i] = make_float2(at(4 * i + 2 * h), at(4 * i + 2 * h + 1));
        }
        if (lane % 4 == 0) p.part_sums[row] = make_float2(shift[h], all);
        continue;
      }
      const float inverse = 1 / all;  // without a finite score the output is not a number
      const FlashSm90Row& row = RowOf(h);
      if (row.row.head < 0) continue;
      __nv_bfloat16* to = p.args.out + row.batch_row * p.args.out_stride +
                          row.row.head * p.args.head_dim + 2 * (lane % 4);
#pragma unroll
      for (int i = 0; i < kDim / 8; i++) {
        if (8 * i >= p.args.head_dim) break;
        *reinterpret_cast<uint32_t*>(to + 8 * i) =
            PackPair(at(4 * i + 2 * h) * inverse, at(4 * i + 2 * h + 1) * inverse);
      }
    }
  }
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_FLASH_SM90_TILE_CUH_
