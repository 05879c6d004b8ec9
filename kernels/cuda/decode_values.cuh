// Keys and values in tiles of 16 rows through shared memory, for rows that need all or most of them: scores of a tile and
// sums of weighted values, both on tensor cores. Query heads are the products' rows 0 to 7; rows 8 to 15 take what is lost
// in rounding weights to bf16, so sums are exact to the values' own precision.
#ifndef TAUSERVE_KERNELS_CUDA_DECODE_VALUES_CUH_
#define TAUSERVE_KERNELS_CUDA_DECODE_VALUES_CUH_

#include "kernels/cuda/decode_block.cuh"

namespace tauserve::cuda::decode {

inline constexpr int kRowTile = 16;  // keys

template <int kHeadDim>
struct RowTileShape {
  static constexpr int kKeyBytes = kRowTile * kHeadDim * 2;
  static constexpr int kScaleBytes = 0;
  static constexpr int kBytes = kKeyBytes;
};

// A warp's copies: 16 rows of each of kPools pools in turn, of every kWarps-th page of [first_page, end_page). Uses the
// memory of lists and stages.
template <int kHeadDim, int kPools>
class RowStream {
 public:
  using Shape = RowTileShape<kHeadDim>;

  __device__ __forceinline__ RowStream(const Params& p, const DecodeGroup& group,
                                       const __nv_bfloat16* first_pool,
                                       const __nv_bfloat16* last_pool, int first_page, int end_page)
      : first_pool_(first_pool),
        last_pool_(last_pool),
        num_kv_heads_(p.args.num_kv_heads),
        kv_head_(group.kv_head),
        table_(p.args.page_table + group.page_table) {
    const int warp = threadIdx.x >> 5;
    first_page_ = first_page + warp;
    tiles_ = end_page > first_page_ ? kPerPage * ((end_page - first_page_ - 1) / kWarps + 1) : 0;
    const int bytes = kListBytes / kWarps + p.list_capacity * static_cast<int>(sizeof(Candidate));
    slots_ = min(bytes / Shape::kBytes, kRowSlots);
    memory_ = block_memory + kSharedHead + warp * (bytes / 128 * 128);
    parity_ = Shared().row_parity[warp];
    LoadIds(0);
  }

  // Starts copies while there are tiles and free slots.
  __device__ __forceinline__ void Fill() {
#pragma unroll 1
    while (copied_ < tiles_ && copied_ < read_ + slots_) {
      const int page = copied_ / kPerPage;
      if (page % 32 == 0 && copied_ % kPerPage == 0) {
        ids_ = next_ids_;
        LoadIds(page + 32);
      }
      const uint32_t id = __shfl_sync(kFullWarp, ids_, page % 32);
      const uint32_t row =
          (id * num_kv_heads_ + kv_head_) * kPageTokens + copied_ % kPerPage / kPools * kRowTile;
      const __nv_bfloat16* from = copied_ % kPools == 0 ? first_pool_ : last_pool_;
      CopyTile<Shape>(memory_ + copy_slot_ * Shape::kBytes,
                      &Shared().row_barrier[threadIdx.x >> 5][copy_slot_],
                      reinterpret_cast<const char*>(from + int64_t{row} * kHeadDim), nullptr);
      copied_++;
      copy_slot_ = copy_slot_ + 1 == slots_ ? 0 : copy_slot_ + 1;
    }
  }

  __device__ __forceinline__ bool Next() const { return read_ < tiles_; }
  // The sequence's token of the tile's first row.
  __device__ __forceinline__ int first_key() const {
    return page() * kPageTokens + sub_tile() * kRowTile;
  }
  __device__ __forceinline__ int page() const { return first_page_ + read_ / kPerPage * kWarps; }
  __device__ __forceinline__ int sub_tile() const { return read_ % kPerPage / kPools; }
  __device__ __forceinline__ const char* Wait() const {
    WaitBarrier(&Shared().row_barrier[threadIdx.x >> 5][read_slot_], parity_ >> read_slot_ & 1);
    return memory_ + read_slot_ * Shape::kBytes;
  }
  __device__ __forceinline__ void Release() {
    __syncwarp();
    parity_ ^= 1u << read_slot_;
    read_++;
    read_slot_ = read_slot_ + 1 == slots_ ? 0 : read_slot_ + 1;
  }
  // Barriers keep their phases from piece to piece.
  __device__ __forceinline__ void Finish() const {
    if ((threadIdx.x & 31) == 0) Shared().row_parity[threadIdx.x >> 5] = parity_;
    __syncwarp();
  }

 private:
  static constexpr int kPerPage = kPools * kPageTokens / kRowTile;  // tiles

  // Asks for the ids of 32 pages.
  __device__ __forceinline__ void LoadIds(int index) {
    const int at = index + (threadIdx.x & 31);
    next_ids_ = at * kPerPage < tiles_ ? __ldg(table_ + first_page_ + at * kWarps) : 0;
  }

  const __nv_bfloat16* first_pool_;
  const __nv_bfloat16* last_pool_;
  int num_kv_heads_;
  int kv_head_;
  const int32_t* table_;
  char* memory_;
  int first_page_;
  int tiles_;
  int slots_;
  int copied_ = 0;
  int copy_slot_ = 0;
  int read_ = 0;
  int read_slot_ = 0;
  uint32_t parity_;
  uint32_t ids_ = 0;
  uint32_t next_ids_ = 0;
};

// q . k of head g with keys 8 h + 2 t and the next of a tile.
template <int kHeadDim>
__device__ __forceinline__ void ScoreRows(const char* tile, const Bf16Queries<kHeadDim>& q,
                                          float (&s)[2][2]) {
  const int g = (threadIdx.x & 31) >> 2;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    uint4 k[kHeadDim / 32];
    LoadRow(tile + (8 * h + g) * kHeadDim * 2, k);
    float c[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < kHeadDim / 32; i++) {
      MmaBf16(c, q.b[4 * i], 0, q.b[4 * i + 1], 0, k[i].x, k[i].y);
      MmaBf16(c, q.b[4 * i + 2], 0, q.b[4 * i + 3], 0, k[i].z, k[i].w);
    }
    s[h][0] = c[0];
    s[h][1] = c[1];
  }
}

// A warp's sum of weight * value for head g of every thread; c[u][j] is a product's tile of the 8 dimensions
// 64 u + 8 n + j, n = 0 .. 7: a thread reads 8 consecutive dimensions of a row as operands of 8 products.
template <int kHeadDim>
class WeightedValues {
 public:
  __device__ __forceinline__ void Scale(float x) {
#pragma unroll
    for (int u = 0; u < kParts; u++) {
#pragma unroll
      for (int j = 0; j < 8; j++) {
#pragma unroll
        for (int i = 0; i < 4; i++) c_[u][j][i] *= x;
      }
    }
  }

  // Weights as the scores of ScoreRows(). At an `edge` some rows may hold anything, NaN too.
  __device__ __forceinline__ void Add(const char* tile, const float (&w)[2][2], int first,
                                      bool edge, const DecodeGroup& group) {
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    uint32_t high[2], low[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const __nv_bfloat162 x = __floats2bfloat162_rn(w[h][0], w[h][1]);
      const __nv_bfloat162 y =
          __floats2bfloat162_rn(w[h][0] - __low2float(x), w[h][1] - __high2float(x));
      high[h] = *reinterpret_cast<const uint32_t*>(&x);
      low[h] = *reinterpret_cast<const uint32_t*>(&y);
    }
    uint32_t seen[2] = {0xffffffffu, 0xffffffffu};  // of the two keys of a register
    if (edge) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int key = first + 8 * h + 2 * t;
        seen[h] = (key >= group.first_key && key < group.end_key ? 0xffffu : 0) |
                  (key + 1 >= group.first_key && key + 1 < group.end_key ? 0xffff0000u : 0);
      }
    }
#pragma unroll
    for (int u = 0; u < kParts; u++) {
      uint32_t x[4][4];  // keys 2 t, 2 t + 1, 8 + 2 t, 9 + 2 t
      const int d = 64 * u + 8 * g;
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const int row = 8 * (k / 2) + 2 * t + k % 2;
        uint4 v = make_uint4(0, 0, 0, 0);
        if (kHeadDim % 64 == 0 || d < kHeadDim) {
          v = *reinterpret_cast<const uint4*>(tile + (row * kHeadDim + d) * 2);
        }
        x[k][0] = v.x;
        x[k][1] = v.y;
        x[k][2] = v.z;
        x[k][3] = v.w;
      }
#pragma unroll
      for (int j = 0; j < 8; j++) {
        const uint32_t select = j % 2 ? 0x7632 : 0x5410;
        uint32_t b0 = __byte_perm(x[0][j / 2], x[1][j / 2], select);
        uint32_t b1 = __byte_perm(x[2][j / 2], x[3][j / 2], select);
        if (edge) {
          b0 &= seen[0];
          b1 &= seen[1];
        }
        MmaBf16(c_[u][j], high[0], low[0], high[1], low[1], b0, b1);
      }
    }
  }

  // Sums over the block's warps to out[column][d].
  __device__ __forceinline__ void Reduce(int columns, float* out) const {
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3, warp = threadIdx.x >> 5;
    float* buffer = reinterpret_cast<float*>(block_memory + kSharedHead);
    static_assert(kWarps * kDecodeColumns * kHeadDim * 4 <= kListBytes);
    __syncthreads();  // rows are read
    if (g < columns) {
#pragma unroll
      for (int u = 0; u < kParts; u++) {
#pragma unroll
        for (int k = 0; k < 2; k++) {
          const int d = 64 * u + 8 * (2 * t + k);
          if (kHeadDim % 64 != 0 && d >= kHeadDim) continue;
          float4* to = reinterpret_cast<float4*>(buffer + (warp * columns + g) * kHeadDim + d);
#pragma unroll
          for (int j = 0; j < 8; j += 4) {
            to[j / 4] = {c_[u][j][k] + c_[u][j][k + 2], c_[u][j + 1][k] + c_[u][j + 1][k + 2],
                         c_[u][j + 2][k] + c_[u][j + 2][k + 2],
                         c_[u][j + 3][k] + c_[u][j + 3][k + 2]};
          }
        }
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < columns * kHeadDim; i += kThreads) {
      float x = 0;
#pragma unroll
      for (int w = 0; w < kWarps; w++) x += buffer[w * columns * kHeadDim + i];
      __stcg(out + i, x);
    }
  }

 private:
  static constexpr int kParts = (kHeadDim + 63) / 64;
  float c_[kParts][8][4] = {};
};

}  // namespace tauserve::cuda::decode

#endif  // TAUSERVE_KERNELS_CUDA_DECODE_VALUES_CUH_
