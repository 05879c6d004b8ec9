// What the backward pass's kernels read, and the workspace's parts.
#ifndef TAUSERVE_KERNELS_CUDA_BACKWARD_PARAMS_H_
#define TAUSERVE_KERNELS_CUDA_BACKWARD_PARAMS_H_

#include "kernels/check.h"
#include "kernels/cuda/backward.h"
#include "kernels/cuda/flash_mma.cuh"
#include "kernels/cuda/kernel_variant.h"
#include "kernels/cuda/training_tiles.cuh"
#include "kernels/entmax/weight.h"

namespace tauserve::cuda {

// A row with weight on a key, in that key's list (a column): the row above, its weight and its dS as bf16 below, so that
// sorting a column's entries as integers sorts them by row. Of float16 tensors, too: it would hold no dS over 65504.
__device__ __forceinline__ uint64_t ColumnEntry(int row, float weight, float gradient) {
  return static_cast<uint64_t>(static_cast<uint32_t>(row)) << 32 | PackPair(weight, gradient);
}

// A warp's share of a column with many entries: piece i of all is i - first of the column's.
struct ColumnPiece {
  int32_t column;
  int32_t first;
  int32_t pieces;  // of the column
  int32_t done;    // of the first piece: how many are
};
inline constexpr int kLongColumn = 1024;  // entries of a piece

template <typename Element>
struct BackwardParams {
  BackwardArgs<Element> args;
  int group;                   // query heads a KV head
  int num_rows;                // tokens x query heads
  int num_columns;             // KV heads x keys: column kv_head * num_keys + key
  int32_t* column_count;       // [num_columns + 1], zeroed
  int64_t* column_first;       // [num_columns + 1], places in `columns`
  int32_t* place;              // [capacity], a row's entry's in its column
  float* d_weight;             // [capacity], dP of an entry
  uint64_t* unsorted_columns;  // [capacity] ColumnEntry(), as rows write them
  uint64_t* columns;           // the same; where they are sorted, elsewhere
  int32_t* long_rows;          // [num_rows], as KeptRowAt takes them
  int32_t* num_long_rows;      // zeroed
  ColumnPiece* pieces;         // [capacity * 2 / kLongColumn]
  int32_t* num_pieces;         // zeroed
  float* partial;              // a piece's sums, [2 * head_dim]

  // Rows that aren't kept, by tiles of a sequence's tokens and a head: tile t of all sequences and head h at t * num_heads + h.
  TrainingTiles tiles;
  int32_t* dense_row_tiles;  // [num_row_tiles * num_heads], zeroed: whether some row isn't kept
  int32_t* any_dense;        // zeroed
  float* mean;               // [num_rows], sum g dP / sum g of rows that aren't kept
  uint32_t* live;  // [num_row_tiles * num_heads][live_words], a bit for a tile of keys with weight
  int live_words;
  float* gradient_bound;  // [num_row_tiles * num_heads], zeroed: no |dS| is larger; float16 alone
};

// Calls run.operator()<head_dim, form>() of args' head_dim and alphas.
template <typename Element, typename Run>
void WithBackwardForm(const BackwardArgs<Element>& args, const Run& run) {
  for (int h = 0; h < args.num_heads; h++) {
    const float alpha = args.host_heads[h].alpha;
    TAUSERVE_CHECK(alpha > 1 && alpha <= 2, "alpha");
  }
  WithHeadDim(args.head_dim, [&]<int kDim>() {
    WithForm(args.host_heads, args.num_heads,
             [&]<entmax::Form kForm>() { run.template operator()<kDim, kForm>(); });
  });
}

// What the derivative of a weight is in proportion to: p^(2 - alpha) = z^((2 - alpha) / (alpha - 1)).
template <entmax::Form kForm>
__device__ __forceinline__ float WeightGradient(float z, float exponent) {
  if (kForm == entmax::Form::kSquare) return z;
  if (kForm == entmax::Form::kLinear) return z > 0 ? 1.0f : 0.0f;
  return z > 0 ? entmax::Power(z, exponent - 1) : 0.0f;
}
template <entmax::Form kForm>
__device__ __forceinline__ float WeightOf(float z, float gradient) {
  if (kForm == entmax::Form::kLinear) return z;
  return z * gradient;  // z^e = z z^(e-1)
}

// Lanes that share an entry, 8 elements of its vectors each.
template <int kDim>
struct GatherLanes {
  static constexpr int kLanes = kDim <= 64 ? 8 : kDim <= 128 ? 16 : 32;
  static constexpr int kEntries = 32 / kLanes;  // of a warp at once
  static constexpr int kUsed = kDim / 8;        // lanes with elements
};

template <typename Element>
__device__ __forceinline__ void Unpack(const uint4& x, float (&to)[8]) {
  const uint32_t pair[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    to[2 * i] = LowOf<Element>(pair[i]);
    to[2 * i + 1] = HighOf<Element>(pair[i]);
  }
}
template <typename Element>
__device__ __forceinline__ uint4 Packed(const float (&x)[8], float scale) {
  uint4 y;
  uint32_t* pair = &y.x;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    pair[i] = PackPair<Element>(x[2 * i] * scale, x[2 * i + 1] * scale);
  }
  return y;
}
// Sums over the lanes that hold the same elements.
template <int kDim, int kCount>
__device__ __forceinline__ void SumOverEntries(float (&x)[kCount]) {
#pragma unroll
  for (int o = GatherLanes<kDim>::kLanes; o < 32; o *= 2) {
#pragma unroll
    for (int i = 0; i < kCount; i++) x[i] += __shfl_xor_sync(~0u, x[i], o);
  }
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_BACKWARD_PARAMS_H_
