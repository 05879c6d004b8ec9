// A tile of 64 query rows and their scores over the keys, with thresholds that are known: what the dense kernels of
// training have in common.
#ifndef TAUSERVE_KERNELS_CUDA_SCORED_ROWS_CUH_
#define TAUSERVE_KERNELS_CUDA_SCORED_ROWS_CUH_

#include "kernels/cuda/dense_tile.cuh"
#include "kernels/cuda/kept_support.h"
#include "kernels/cuda/training_tiles.cuh"

namespace tauserve::cuda {

inline constexpr int kMaxLiveWords =
    128;  // a bit for a tile of keys; tiles behind these always count as live

// kRowTiles x 64 rows; with values, dP = dO V^T can be made beside the scores.
template <int kDim, int kRowTiles, bool kWithValues>
struct ScoredRowsShape {
  static constexpr int kStages = kDim <= 128 ? 2 : 1;
  static constexpr int kOperands = kWithValues ? 2 : 1;  // keys and queries, values and gradients
  static constexpr int kTileBytes = kOperands * (kRowTiles + kStages) * kDenseTileBytes<kDim>;
  static constexpr int kSharedBytes = kTileBytes + kMaxLiveWords * 4 + 128;
};

template <typename Element, int kDim, int kRowTiles, bool kWithValues>
struct ScoredRows {
  using Tile = DenseTile<Element, kDim>;
  using Shape = ScoredRowsShape<kDim, kRowTiles, kWithValues>;
  using Scores = float[kRowTiles][kTrainingTile / 8][4];
  static constexpr int kRows = kRowTiles * kTrainingTile;

  const TrainingBatch& batch;
  const KeptSupport& kept;
  const Element* const q;
  const Element* const k;
  const Element* const v;      // kWithValues
  const Element* const d_out;  // kWithValues
  const TrainedSequence sequence;
  const int head, first_token;
  const uint32_t shared;  // queries, output gradients, then stages of keys and values
  uint32_t* const live;   // [kMaxLiveWords], in shared memory
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  DenseHead constants;
  int kv_head, context, first_tile, num_tiles;
  float threshold[kRowTiles][2];  // infinite for rows that are kept or don't exist
  KeyRange whole;                 // keys that all rows see

  // The thread's row (m, h).
  __device__ __forceinline__ int TokenOf(int m, int h) const {
    return first_token + (warp * kRowTiles + m) * 16 + lane / 4 + 8 * h;
  }
  __device__ __forceinline__ int64_t RowOf(int m, int h) const {
    return static_cast<int64_t>(sequence.first_token + TokenOf(m, h)) * batch.num_heads + head;
  }
  __device__ __forceinline__ KeyRange Visible(int token) const {
    return VisibleKeys(context + min(token, sequence.num_tokens - 1), sequence.num_keys,
                       batch.causal, batch.sliding_window);
  }
  __device__ __forceinline__ uint32_t Gradients() const {
    return shared + kRowTiles * Tile::kBytes;
  }
  __device__ __forceinline__ uint32_t Keys(int stage) const {
    return shared + Shape::kOperands * (kRowTiles + stage) * Tile::kBytes;
  }

  // Thresholds, and the rows' operands on their way.
  __device__ __forceinline__ void Start() {
    kv_head = head / (batch.num_heads / batch.num_kv_heads);
    constants = MakeDenseHead(batch, head);
    context = sequence.num_keys - sequence.num_tokens;
    const KeyRange low = Visible(first_token), high = Visible(first_token + kRows - 1);
    first_tile = low.begin / kTrainingTile;
    num_tiles = CeilDiv(high.end, kTrainingTile) - first_tile;
    whole = {high.begin, low.end};
#pragma unroll
    for (int m = 0; m < kRowTiles; m++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        threshold[m][h] = INFINITY;
        if (TokenOf(m, h) < sequence.num_tokens && kept.first[RowOf(m, h)] < 0) {
          threshold[m][h] = kept.threshold[RowOf(m, h)];
        }
      }
    }
    for (int i = threadIdx.x; i < kMaxLiveWords; i += kDenseThreads) live[i] = 0;
    const int64_t row_stride = static_cast<int64_t>(batch.num_heads) * kDim;
    const int64_t at =
        (static_cast<int64_t>(sequence.first_token + first_token) * batch.num_heads + head) * kDim;
    const int rows = sequence.num_tokens - first_token;
    Tile::template Load<kRowTiles>(shared, q + at, row_stride, rows);
    if constexpr (kWithValues) {
      Tile::template Load<kRowTiles>(Gradients(), d_out + at, row_stride, rows);
    }
    CommitCopies();
  }

  __device__ __forceinline__ bool Live(int t) const {
    return t >= kMaxLiveWords * 32 || (live[t / 32] >> t % 32 & 1) != 0;
  }

  // Calls look(tile of keys, its shared address), for the tiles with weight or for all.
  template <bool kAll, typename Look>
  __device__ __forceinline__ void ForTiles(const Look& look) {
    auto next = [&](int i) {
      while (!kAll && i < num_tiles && !Live(first_tile + i)) i++;
      return i;
    };
    int i = next(0), stage = 0;
    LoadTile(i, 0);
    while (i < num_tiles) {
      const int following = next(i + 1);
      if constexpr (Shape::kStages == 2) {
        LoadTile(following, stage ^ 1);
        WaitForCopies<1>();
      } else {
        WaitForCopies<0>();
      }
      __syncthreads();
      look(first_tile + i, Keys(stage));
      __syncthreads();
      if constexpr (Shape::kStages == 2) {
        stage ^= 1;
      } else {
        LoadTile(following, 0);
      }
      i = following;
    }
    WaitForCopies<0>();
    __syncthreads();
  }
  __device__ __forceinline__ void LoadTile(int i, int stage) {
    if (i < num_tiles) {
      const int64_t row_stride = static_cast<int64_t>(batch.num_kv_heads) * kDim;
      const int key = (first_tile + i) * kTrainingTile;
      const int64_t at =
          (static_cast<int64_t>(sequence.first_key + key) * batch.num_kv_heads + kv_head) * kDim;
      Tile::Load(Keys(stage), k + at, row_stride, sequence.num_keys - key);
      if constexpr (kWithValues) {
        Tile::Load(Keys(stage) + Tile::kBytes, v + at, row_stride, sequence.num_keys - key);
      }
    }
    CommitCopies();
  }

  // Raw scores over the thresholds; not positive without weight. Whether the warp has weight.
  __device__ __forceinline__ bool Multiply(int key_tile, uint32_t keys, Scores& x) const {
#pragma unroll
    for (int m = 0; m < kRowTiles; m++) {
#pragma unroll
      for (int n = 0; n < kTrainingTile / 8; n++) {
        x[m][n][0] = x[m][n][1] = -threshold[m][0];
        x[m][n][2] = x[m][n][3] = -threshold[m][1];
      }
    }
    Tile::MultiplyRows(shared, warp * kRowTiles * 16, keys, lane, x);
    const int first = key_tile * kTrainingTile;
    if (constants.slope != 0) AddBias(first, x);
    if (first < whole.begin || first + kTrainingTile > whole.end) Mask(first, x);
    uint32_t below = ~0u;  // signs of all
#pragma unroll
    for (int m = 0; m < kRowTiles; m++) {
#pragma unroll
      for (int n = 0; n < kTrainingTile / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) below &= __float_as_uint(x[m][n][i]);
      }
    }
    return __any_sync(~0u, static_cast<int>(below) >= 0);
  }
  __device__ __forceinline__ void AddBias(int first, Scores& x) const {
#pragma unroll
    for (int m = 0; m < kRowTiles; m++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const float away = static_cast<float>(first + 2 * (lane % 4) - context - TokenOf(m, h));
#pragma unroll
        for (int n = 0; n < kTrainingTile / 8; n++) {
#pragma unroll
          for (int e = 0; e < 2; e++) {
            x[m][n][2 * h + e] = fmaf(constants.slope, away + (8 * n + e), x[m][n][2 * h + e]);
          }
        }
      }
    }
  }
  __device__ __forceinline__ void Mask(int first, Scores& x) const {
#pragma unroll
    for (int m = 0; m < kRowTiles; m++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const KeyRange range = Visible(TokenOf(m, h));
#pragma unroll
        for (int n = 0; n < kTrainingTile / 8; n++) {
#pragma unroll
          for (int e = 0; e < 2; e++) {
            const int key = first + 8 * n + 2 * (lane % 4) + e;
            if (key < range.begin || key >= range.end) x[m][n][2 * h + e] = -1;
          }
        }
      }
    }
  }
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_SCORED_ROWS_CUH_
