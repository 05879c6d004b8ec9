// Tiles of 64 tokens or keys in shared memory and their products, for training's dense kernels.
#ifndef TAUSERVE_KERNELS_CUDA_DENSE_TILE_CUH_
#define TAUSERVE_KERNELS_CUDA_DENSE_TILE_CUH_

#include "kernels/cuda/flash_mma.cuh"
#include "kernels/cuda/training_tiles.cuh"

namespace tauserve::cuda {

inline constexpr int kDenseThreads =
    128;  // a warp for 16 of a tile's rows, or for 32 of two tiles'

template <int kDim>
inline constexpr int kDenseTileBytes = kTrainingTile* SwizzledRows<kDim>::kBytes;

// A tile of kTrainingTile rows of kDim elements.
template <typename Element, int kDim>
struct DenseTile {
  using Swizzle = SwizzledRows<kDim>;
  static constexpr int kBytes = kDenseTileBytes<kDim>;

  // kTiles tiles of rows `row_stride` elements apart; zeros from `rows` on.
  template <int kTiles = 1>
  static __device__ __forceinline__ void Load(uint32_t shared, const Element* from,
                                              int64_t row_stride, int rows) {
    constexpr int kChunks = kDim / 8, kLanes = kDim <= 64 ? 8 : kDim <= 128 ? 16 : 32;
    const int chunk = threadIdx.x % kLanes;
    if (chunk >= kChunks) return;
#pragma unroll 4
    for (int r = threadIdx.x / kLanes; r < kTiles * kTrainingTile; r += kDenseThreads / kLanes) {
      const int source = r < rows ? r : 0;
      CopyAsync16(shared + Swizzle::Offset(r, chunk), from + source * row_stride + chunk * 8,
                  r < rows);
    }
  }
  // c[m][n] += rows first_row + 16 m on of tile `a` times row 8n + i of tile `b`, over all columns.
  template <int kRowTiles>
  static __device__ __forceinline__ void MultiplyRows(uint32_t a, int first_row, uint32_t b,
                                                      int lane,
                                                      float (&c)[kRowTiles][kTrainingTile / 8][4]) {
    const uint32_t a_at = a + first_row * Swizzle::kBytes + Swizzle::Offset(lane % 16, lane / 16);
    const uint32_t b_at = b + Swizzle::Offset(lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
    for (int k = 0; k < kDim / 16; k++) {
      uint32_t x[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; m++) {
        LoadMatrices(x[m], Swizzle::Along(a_at, k) + m * 16 * Swizzle::kBytes);
      }
#pragma unroll
      for (int n = 0; n < kTrainingTile / 16; n++) {
        uint32_t y[4];
        LoadMatrices(y, Swizzle::Along(b_at, k) + n * 16 * Swizzle::kBytes);
#pragma unroll
        for (int m = 0; m < kRowTiles; m++) {
          MultiplyAdd<Element>(c[m][2 * n], x[m], y[0], y[1]);
          MultiplyAdd<Element>(c[m][2 * n + 1], x[m], y[2], y[3]);
        }
      }
    }
  }
  // c[n] += weights [16][64] (of the accumulators' layout) times columns 8n + `first_column` on of tile `b`.
  template <int kColumns>
  static __device__ __forceinline__ void MultiplyWeights(
      const float (&weights)[kTrainingTile / 8][4], uint32_t b, int first_column, int lane,
      float (&c)[kColumns / 8][4]) {
    const uint32_t b_at = b + Swizzle::Offset(lane % 16, lane / 16);
#pragma unroll
    for (int k = 0; k < kTrainingTile / 16; k++) {
      uint32_t x[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float* pair = &weights[2 * k + i / 2][2 * (i % 2)];
        x[i] = PackFinitePair<Element>(pair[0], pair[1]);
      }
#pragma unroll
      for (int n = 0; n < kColumns / 16; n++) {
        uint32_t y[4];
        LoadTransposedMatrices(
            y, Swizzle::Along(b_at, n + first_column / 16) + k * 16 * Swizzle::kBytes);
        MultiplyAdd<Element>(c[2 * n], x, y[0], y[1]);
        MultiplyAdd<Element>(c[2 * n + 1], x, y[2], y[3]);
      }
    }
  }
};

// A block's dynamic shared memory from its first 128-byte boundary on.
struct AlignedShared {
  char* begin;
  uint32_t address;
};
__device__ __forceinline__ AlignedShared AlignShared(char* shared) {
  const uint32_t start = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const uint32_t address = (start + 127) & ~127u;
  return {shared + (address - start), address};
}

// A query head's constants in units of raw scores, q.k + bias / scale.
struct DenseHead {
  float inverse_width, exponent, slope;
};
__device__ __forceinline__ DenseHead MakeDenseHead(const TrainingBatch& batch, int head) {
  const Head h = batch.heads[head];
  return {(h.alpha - 1) * batch.scale, 1 / (h.alpha - 1),
          batch.causal ? h.alibi_slope / batch.scale : 0.0f};
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_DENSE_TILE_CUH_
