// One thread block of the flash kernel: a block of query rows over all the pages that they see, the newest first.
#ifndef TAUSERVE_KERNELS_CUDA_FLASH_TILE_CUH_
#define TAUSERVE_KERNELS_CUDA_FLASH_TILE_CUH_

#include <cfloat>

#include "kernels/cuda/flash_mma.cuh"
#include "kernels/cuda/flash_rows.cuh"

namespace tauserve::cuda {

// Each warp has all of a page's keys for kRowTiles x 16 rows: two row tiles halve what is read from shared memory for a
// product, and fit into registers up to 128 dims. Keys and values come through a ring of slots, a page of one of them
// each. 82 KB at 128 dims: two blocks a multiprocessor on sm_80; 96 KB at 256: one block on sm_86.
template <int kDim>
struct FlashShape {
  static constexpr int kWarps = 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kRowTiles = kDim <= 128 ? 2 : 1;
  static constexpr int kRows = kWarps * kRowTiles * 16;
  static constexpr int kSlots = kDim <= 64 ? 4 : kDim <= 128 ? 3 : 2;
  static constexpr int kQueryBytes = kRows * SwizzledRows<kDim>::kBytes;
  static constexpr int kSlotBytes = kPageTokens * SwizzledRows<kDim>::kBytes;
  static constexpr int kSharedBytes =
      kQueryBytes + kSlots * kSlotBytes + kRows * static_cast<int>(sizeof(float));
  static_assert(kRows * sizeof(FlashRow) <= kSlotBytes);
};

template <int kDim>
struct FlashTile {
  using Shape = FlashShape<kDim>;
  using Swizzle = SwizzledRows<kDim>;
  static constexpr int kRowTiles = Shape::kRowTiles;
  static constexpr bool kKeepQueries = kDim <= 64;  // in registers

  const FlashParams& p;
  const Slice slice;
  AttentionStats* const stats;  // of the slice; null: nothing is counted
  const int kv_head, first_row;
  const FlashTiles tiles;
  const int part;          // among all parts of all blocks
  const uint32_t queries;  // shared address; the slots follow
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  // Copies on their way.
  int total;
  const int32_t* pages;
  int load_page, load_id, next_id;
  uint32_t load_slot = 0, slot = 0;

  // The warp's rows: row (m, h) of the thread is 16 (kRowTiles * warp + m) + lane / 4 + 8 h of the block.
  KeyRange visible, whole;  // keys that some of them, or all of them, see
  bool biased;
  float factor[kRowTiles][2];
  float shift[kRowTiles][2];  // -factor * reference: exponentials are 2^(factor * score + shift)
  uint32_t q[kKeepQueries ? kDim / 16 : 1][kRowTiles][4];
  float out[kRowTiles][kDim / 8][4] = {};
  float sum[kRowTiles][4] = {};  // weights times a column of ones: as rounded for the product
  uint32_t ones;
  // Places of the lane's matrix rows in the first 16 columns of a tile of 16 rows. Places in the next columns differ in
  // bits that every address has from here alone: see SwizzledRows::Along.
  uint32_t key_place, value_place;

  __device__ __forceinline__ int RowOf(int m, int h) const {
    return (kRowTiles * warp + m) * 16 + lane / 4 + 8 * h;
  }
  __device__ __forceinline__ int PositionOf(int row) const {
    return slice.context_tokens + min((first_row + row) / p.group, slice.num_tokens - 1);
  }
  __device__ __forceinline__ KeyRange VisibleOf(int row) const {
    return VisibleKeysOf(p.args, PositionOf(row), total);
  }
  __device__ __forceinline__ uint32_t Slots() const { return queries + Shape::kQueryBytes; }
  __device__ __forceinline__ float* Slopes() const {
    extern __shared__ __align__(128) char shared[];
    return reinterpret_cast<float*>(shared + Shape::kQueryBytes +
                                    Shape::kSlots * Shape::kSlotBytes);
  }
  __device__ __forceinline__ static uint32_t Next(uint32_t s) {
    return s + 1 == Shape::kSlots ? 0 : s + 1;
  }

  __device__ __forceinline__ void Run() {
    total = slice.context_tokens + slice.num_tokens;
    pages = p.args.page_table + slice.first_page;
    load_page = tiles.last;
    load_id = pages[load_page];
    next_id = load_id;
    LoadNext<false>();
    if constexpr (Shape::kSlots > 2) LoadNext<true>();
    if constexpr (Shape::kSlots > 3) LoadNext<false>();
    LoadRows();
    for (int page = tiles.last; page >= tiles.first; page--) {
      const bool sees =
          page * kPageTokens < visible.end && (page + 1) * kPageTokens > visible.begin;
      float score[kRowTiles][kPageTokens / 8][4];
      WaitForCopies<Shape::kSlots - 2>();
      __syncthreads();
      LoadNext<Shape::kSlots % 2 == 0>();
      if (sees) {
        Multiply(score);
        if (biased) AddBias(score, page);
        if (page * kPageTokens < whole.begin || (page + 1) * kPageTokens > whole.end) {
          Mask(score, page);
        }
        MakeWeights(score);
      }
      slot = Next(slot);
      WaitForCopies<Shape::kSlots - 2>();
      __syncthreads();
      LoadNext<Shape::kSlots % 2 != 0>();
      if (sees) AddValues(score);
      slot = Next(slot);
    }
    Write();
  }

  // Begins to copy the next page of keys or values to the slot that was read before the last barrier.
  template <bool kValues>
  __device__ __forceinline__ void LoadNext() {
    constexpr int kChunks = kDim / 8, kLanes = kDim <= 64 ? 8 : kDim <= 128 ? 16 : 32;
    constexpr int kRowsAtOnce = Shape::kThreads / kLanes;
    const int chunk = threadIdx.x % kLanes, row = threadIdx.x / kLanes;
    if (load_page >= tiles.first) {
      const int dim = p.args.head_dim;
      if (chunk < kChunks) {
        const int64_t block = int64_t{load_id} * p.args.num_kv_heads + kv_head;
        const __nv_bfloat16* from =
            (kValues ? p.args.values : p.args.keys) + (block * kPageTokens + row) * dim + chunk * 8;
        const uint32_t to = Slots() + load_slot * Shape::kSlotBytes;
        // Unused slots may hold NaN, and zero times NaN is none.
        const int used = chunk * 8 < dim ? total - load_page * kPageTokens : 0;
#pragma unroll
        for (int i = 0; i < kPageTokens / kRowsAtOnce; i++) {
          const int r = row + i * kRowsAtOnce;
          CopyAsync16(to + Swizzle::Offset(r, chunk), from + i * kRowsAtOnce * dim, r < used);
        }
      }
      if (kValues) {
        load_page--;
        load_id = next_id;
      } else {
        next_id = pages[max(load_page - 1, tiles.first)];
      }
    }
    CommitCopies();
    load_slot = Next(load_slot);
  }

  // Queries to shared memory, what the loop needs of their rows to registers; and the statistics.
  __device__ __forceinline__ void LoadRows() {
    extern __shared__ __align__(128) char shared[];
    // In the last slot, which is filled only after the loop's first barrier.
    FlashRow* const rows = reinterpret_cast<FlashRow*>(shared + Shape::kQueryBytes +
                                                       (Shape::kSlots - 1) * Shape::kSlotBytes);
    static_assert(Shape::kRows <= Shape::kThreads);
    if (threadIdx.x < Shape::kRows) {
      const FlashRow row = MakeFlashRow(p, slice, kv_head, first_row + threadIdx.x);
      rows[threadIdx.x] = row;
      Slopes()[threadIdx.x] = row.slope;
      if (stats) CountFlashRow(p.args, slice, row, stats);
    }
    if (stats && threadIdx.x == 0) {
      CountFlashPages(p.args, tiles.last_page - tiles.first_page + 1, stats);
    }
    __syncthreads();
    constexpr int kChunks = Swizzle::kBytes / 16;
    for (int i = threadIdx.x; i < Shape::kRows * kChunks; i += Shape::kThreads) {
      const int r = i / kChunks, chunk = i % kChunks;
      const FlashRow& row = rows[r];
      uint4 x = make_uint4(0, 0, 0, 0);
      if (row.keep != 0 && chunk * 8 < p.args.head_dim) {
        const int64_t batch_row = slice.first_row + row.token;
        x = *reinterpret_cast<const uint4*>(p.args.q + batch_row * p.args.q_stride +
                                            row.head * p.args.head_dim + chunk * 8);
      }
      x = make_uint4(x.x ^ row.flip, x.y ^ row.flip, x.z ^ row.flip, x.w ^ row.flip);
      *reinterpret_cast<uint4*>(shared + Swizzle::Offset(r, chunk)) = x;
    }
    bool slopes = false;
#pragma unroll
    for (int m = 0; m < kRowTiles; m++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const FlashRow& row = rows[RowOf(m, h)];
        factor[m][h] = row.factor;
        slopes |= row.slope != 0;
        shift[m][h] = FLT_MAX;
      }
    }
    biased = __syncthreads_or(slopes);
    const KeyRange low = VisibleOf(kRowTiles * warp * 16);
    const KeyRange high = VisibleOf(kRowTiles * (warp + 1) * 16 - 1);
    visible = {low.begin, high.end};
    whole = {high.begin, low.end};
    ones = lane < 4 ? 0x3f803f80u : 0u;
    key_place = Swizzle::Offset(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    value_place = Swizzle::Offset(lane % 16, lane / 16);
    if constexpr (kKeepQueries) {
#pragma unroll
      for (int k = 0; k < kDim / 16; k++) LoadQueries(k, q[k]);
    }
  }

  // The A operand of columns 16 k on. A tile of 16 rows has the same places for queries as for values.
  __device__ __forceinline__ void LoadQueries(int k, uint32_t (&a)[kRowTiles][4]) const {
#pragma unroll
    for (int m = 0; m < kRowTiles; m++) {
      const uint32_t tile = queries + (kRowTiles * warp + m) * 16 * Swizzle::kBytes;
      LoadMatrices(a[m], Swizzle::Along(tile + value_place, k));
    }
  }

  __device__ __forceinline__ void Multiply(float (&score)[kRowTiles][kPageTokens / 8][4]) {
    const uint32_t keys = Slots() + slot * Shape::kSlotBytes + key_place;
#pragma unroll
    for (int m = 0; m < kRowTiles; m++) {
#pragma unroll
      for (int i = 0; i < kPageTokens / 2; i++) score[m][i / 4][i % 4] = 0;
    }
#pragma unroll
    for (int k = 0; k < kDim / 16; k++) {
      uint32_t loaded[kRowTiles][4];
      if constexpr (!kKeepQueries) LoadQueries(k, loaded);
      const auto& a = [&]() -> const uint32_t(&)[kRowTiles][4] {
        if constexpr (kKeepQueries) return q[k];
        return loaded;
      }();
#pragma unroll
      for (int n = 0; n < kPageTokens / 16; n++) {
        uint32_t b[4];
        LoadMatrices(b, Swizzle::Along(keys, k) + n * 16 * Swizzle::kBytes);
#pragma unroll
        for (int m = 0; m < kRowTiles; m++) {
          MultiplyAdd(score[m][2 * n], a[m], b[0], b[1]);
          MultiplyAdd(score[m][2 * n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

  __device__ __forceinline__ void AddBias(float (&score)[kRowTiles][kPageTokens / 8][4],
                                          int page) const {
#pragma unroll
    for (int m = 0; m < kRowTiles; m++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int away = page * kPageTokens + 2 * (lane % 4) - PositionOf(RowOf(m, h));
        const float slope = Slopes()[RowOf(m, h)];
        const float bias = slope * static_cast<float>(away);
#pragma unroll
        for (int n = 0; n < kPageTokens / 8; n++) {
#pragma unroll
          for (int e = 0; e < 2; e++) {
            score[m][n][2 * h + e] += fmaf(slope, static_cast<float>(8 * n + e), bias);
          }
        }
      }
    }
  }

  __device__ __forceinline__ void Mask(float (&score)[kRowTiles][kPageTokens / 8][4],
                                       int page) const {
#pragma unroll
    for (int m = 0; m < kRowTiles; m++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const KeyRange range = VisibleOf(RowOf(m, h));
        const int first = page * kPageTokens + 2 * (lane % 4);
#pragma unroll
        for (int n = 0; n < kPageTokens / 8; n++) {
#pragma unroll
          for (int e = 0; e < 2; e++) {
            const int key = first + 8 * n + e;
            if (key < range.begin || key >= range.end) score[m][n][2 * h + e] = -INFINITY;
          }
        }
      }
    }
  }

  // Scores become weights, in units of the rows' references.
  __device__ __forceinline__ void MakeWeights(float (&score)[kRowTiles][kPageTokens / 8][4]) {
    float top[kRowTiles][2];
    bool grown = false;
#pragma unroll
    for (int m = 0; m < kRowTiles; m++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float most = fmaxf(score[m][0][2 * h], score[m][0][2 * h + 1]);
#pragma unroll
        for (int n = 1; n < kPageTokens / 8; n++) {
          most = fmaxf(most, fmaxf(score[m][n][2 * h], score[m][n][2 * h + 1]));
        }
        top[m][h] = most;
        grown |= fmaf(most, factor[m][h], shift[m][h]) > kMostGrowth;
      }
    }
    if (__any_sync(~0u, grown)) Rescale(top);
#pragma unroll
    for (int m = 0; m < kRowTiles; m++) {
#pragma unroll
      for (int n = 0; n < kPageTokens / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          score[m][n][i] = PowerOf2(fmaf(score[m][n][i], factor[m][i / 2], shift[m][i / 2]));
        }
      }
    }
  }

  // The rows' largest scores so far become their references: 8 rows at once, those of one register of each thread.
  __device__ __forceinline__ void Rescale(const float (&top)[kRowTiles][2]) {
#pragma unroll
    for (int m = 0; m < kRowTiles; m++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        if (!__any_sync(~0u, fmaf(top[m][h], factor[m][h], shift[m][h]) > kMostGrowth)) continue;
        float most = fmaxf(top[m][h], __shfl_xor_sync(~0u, top[m][h], 1));
        most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
        const float now = fminf(shift[m][h], -most * factor[m][h]);
        const float scale = PowerOf2(now - shift[m][h]);
        shift[m][h] = now;
#pragma unroll
        for (int n = 0; n < kDim / 8; n++) {
          out[m][n][2 * h] *= scale;
          out[m][n][2 * h + 1] *= scale;
        }
        sum[m][2 * h] *= scale;
      }
    }
  }

  __device__ __forceinline__ void AddValues(const float (&weight)[kRowTiles][kPageTokens / 8][4]) {
    const uint32_t values = Slots() + slot * Shape::kSlotBytes + value_place;
#pragma unroll
    for (int k = 0; k < kPageTokens / 16; k++) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; m++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const float* pair = &weight[m][2 * k + i / 2][2 * (i % 2)];
          a[m][i] = PackPair(pair[0], pair[1]);
        }
        MultiplyAdd(sum[m], a[m], ones, ones);
      }
#pragma unroll
      for (int n = 0; n < kDim / 16; n++) {
        uint32_t b[4];
        LoadTransposedMatrices(b, Swizzle::Along(values, n) + k * 16 * Swizzle::kBytes);
#pragma unroll
        for (int m = 0; m < kRowTiles; m++) {
          MultiplyAdd(out[m][2 * n], a[m], b[0], b[1]);
          MultiplyAdd(out[m][2 * n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

  __device__ __forceinline__ void Write() {
#pragma unroll
    for (int m = 0; m < kRowTiles; m++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const float all = __shfl_sync(~0u, sum[m][2 * h], lane & ~3);
        const float scale = 1 / all;  // without a finite score the output is not a number
        if (tiles.parts > 1) {
          WritePart(m, h, all);
          continue;
        }
        const FlashRow row = MakeFlashRow(p, slice, kv_head, first_row + RowOf(m, h));
        if (row.head < 0) continue;
        const int64_t batch_row = slice.first_row + row.token;
        __nv_bfloat16* to = p.args.out + batch_row * p.args.out_stride +
                            row.head * p.args.head_dim + 2 * (lane % 4);
#pragma unroll
        for (int n = 0; n < kDim / 8; n++) {
          if (8 * n >= p.args.head_dim) break;
          *reinterpret_cast<uint32_t*>(to + 8 * n) =
              PackPair(out[m][n][2 * h] * scale, out[m][n][2 * h + 1] * scale);
        }
      }
    }
  }

  __device__ __forceinline__ void WritePart(int m, int h, float all) const {
    const int64_t row = int64_t{part} * Shape::kRows + RowOf(m, h);
    float2* to = reinterpret_cast<float2*>(p.part_out + row * kDim) + lane % 4;
#pragma unroll
    for (int n = 0; n < kDim / 8; n++) {
      to[4 * n] = make_float2(out[m][n][2 * h], out[m][n][2 * h + 1]);
    }
    if (lane % 4 == 0) p.part_sums[row] = make_float2(shift[m][h], all);
  }
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_FLASH_TILE_CUH_
