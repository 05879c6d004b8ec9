// dQ of rows that the forward pass did not keep: two passes over the keys, for the rows' means and for dQ.
#ifndef TAUSERVE_KERNELS_CUDA_BACKWARD_DENSE_ROWS_CUH_
#define TAUSERVE_KERNELS_CUDA_BACKWARD_DENSE_ROWS_CUH_

#include "kernels/cuda/backward_params.h"
#include "kernels/cuda/gradient_scale.cuh"
#include "kernels/cuda/scored_rows.cuh"

namespace tauserve::cuda {

// Which tiles have rows that aren't kept.
template <typename Element>
__global__ void __launch_bounds__(kDenseThreads)
    MarkDenseRows(const __grid_constant__ BackwardParams<Element> p) {
  const int tile = blockIdx.x * (kDenseThreads / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (tile >= p.tiles.num_row_tiles * p.args.num_heads) return;
  const int head = tile % p.args.num_heads;
  const int2 at = p.tiles.row_tiles[tile / p.args.num_heads];
  const TrainedSequence sequence = p.args.sequences[at.x];
  bool dense = false;
  for (int t = lane; t < kTrainingTile && at.y + t < sequence.num_tokens; t += 32) {
    const int64_t row =
        static_cast<int64_t>(sequence.first_token + at.y + t) * p.args.num_heads + head;
    dense |= p.args.kept.first[row] < 0;
  }
  dense = __any_sync(~0u, dense);
  if (lane != 0 || !dense) return;
  p.dense_row_tiles[tile] = 1;
  *p.any_dense = 1;
}

template <typename Element, int kDim, entmax::Form kForm>
struct DenseRows : ScoredRows<Element, kDim, 1, true> {
  using Rows = ScoredRows<Element, kDim, 1, true>;
  using Tile = DenseTile<Element, kDim>;
  using Rows::constants;
  using Rows::lane;
  using Rows::live;
  using Rows::threshold;
  using typename Rows::Scores;

  const BackwardParams<Element>& p;
  const int tile;
  float mean[2];
  float scale;  // float16: of the warp's dS

  __device__ void Run() {
    this->Start();
    FindMeans();
    for (int i = threadIdx.x; i < p.live_words; i += kDenseThreads) {
      p.live[static_cast<int64_t>(tile) * p.live_words + i] = live[i];
    }
    WriteGradients();
  }

  __device__ __forceinline__ float Gradient(float x) const {
    return WeightGradient<kForm>(fmaxf(x, 0.0f) * constants.inverse_width, constants.exponent);
  }
  __device__ __forceinline__ void MultiplyValues(uint32_t keys, Scores& d_weight) const {
#pragma unroll
    for (int n = 0; n < kTrainingTile / 8; n++) {
      d_weight[0][n][0] = d_weight[0][n][1] = d_weight[0][n][2] = d_weight[0][n][3] = 0;
    }
    Tile::MultiplyRows(this->Gradients(), this->warp * 16, keys + Tile::kBytes, lane, d_weight);
  }

  __device__ __forceinline__ void FindMeans() {
    float weighted[2] = {}, plain[2] = {}, most = 0;
    this->template ForTiles<true>([&](int key_tile, uint32_t keys) {
      Scores x;
      if (!this->Multiply(key_tile, keys, x)) return;
      if (lane == 0 && key_tile < kMaxLiveWords * 32) {
        atomicOr(&live[key_tile / 32], 1u << key_tile % 32);
      }
      Scores d_weight;
      MultiplyValues(keys, d_weight);
#pragma unroll
      for (int n = 0; n < kTrainingTile / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const float g = Gradient(x[0][n][i]);
          weighted[i / 2] = fmaf(g, d_weight[0][n][i], weighted[i / 2]);
          plain[i / 2] += g;
          if constexpr (kIsFloat16<Element>) {
            if (g > 0) most = fmaxf(most, fabsf(d_weight[0][n][i]));
          }
        }
      }
    });
#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
      for (int o = 1; o < 4; o *= 2) {
        weighted[h] += __shfl_xor_sync(~0u, weighted[h], o);
        plain[h] += __shfl_xor_sync(~0u, plain[h], o);
      }
      mean[h] = plain[h] > 0 ? weighted[h] / plain[h] : 0.0f;
      if (lane % 4 == 0 && threshold[0][h] < INFINITY) p.mean[this->RowOf(0, h)] = mean[h];
    }
    if constexpr (kIsFloat16<Element>) FindScale(most);
  }

  // From the largest |dP| with weight on the thread's keys: no |dS| of its row is more than twice the row's.
  __device__ __forceinline__ void FindScale(float most) {
    const uint32_t bound = __reduce_max_sync(~0u, __float_as_uint(2 * most));
    scale = GradientScale(__uint_as_float(bound));
    if (lane == 0) atomicMax(reinterpret_cast<uint32_t*>(&p.gradient_bound[tile]), bound);
  }

  // From a sum of scaled dS K to dQ.
  __device__ __forceinline__ float SumScale() const {
    return kIsFloat16<Element> ? p.args.scale * InverseOfPowerOf2(scale) : p.args.scale;
  }
  __device__ __forceinline__ void WriteGradients() {
    float sum[kDim / 8][4] = {};
    this->template ForTiles<false>([&](int key_tile, uint32_t keys) {
      Scores x;
      if (!this->Multiply(key_tile, keys, x)) return;
      Scores d_weight;
      MultiplyValues(keys, d_weight);
#pragma unroll
      for (int n = 0; n < kTrainingTile / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          d_weight[0][n][i] = Gradient(x[0][n][i]) * (d_weight[0][n][i] - mean[i / 2]);
          if constexpr (kIsFloat16<Element>) d_weight[0][n][i] *= scale;
        }
      }
      Tile::template MultiplyWeights<kDim>(d_weight[0], keys, 0, lane, sum);
    });
#pragma unroll
    for (int h = 0; h < 2; h++) {
      if (!(threshold[0][h] < INFINITY)) continue;
      Element* to = p.args.dq + this->RowOf(0, h) * kDim + 2 * (lane % 4);
#pragma unroll
      for (int n = 0; n < kDim / 8; n++) {
        *reinterpret_cast<uint32_t*>(to + 8 * n) =
            PackPair<Element>(sum[n][2 * h] * SumScale(), sum[n][2 * h + 1] * SumScale());
      }
    }
  }
};

template <typename Element, int kDim, entmax::Form kForm>
__global__ void __launch_bounds__(kDenseThreads)
    BackwardDenseRows(const __grid_constant__ BackwardParams<Element> p) {
  using Shape = ScoredRowsShape<kDim, 1, true>;
  extern __shared__ __align__(128) char shared[];
  // The last rows of a sequence see most: first.
  const int tile = p.tiles.num_row_tiles * p.args.num_heads - 1 - blockIdx.x;
  if (p.dense_row_tiles[tile] == 0) return;
  const int2 at = p.tiles.row_tiles[tile / p.args.num_heads];
  const AlignedShared aligned = AlignShared(shared);
  uint32_t* const live = reinterpret_cast<uint32_t*>(aligned.begin + Shape::kTileBytes);
  DenseRows<Element, kDim, kForm> rows{
      {p.args, p.args.kept, p.args.q, p.args.k, p.args.v, p.args.d_out, p.args.sequences[at.x],
       tile % p.args.num_heads, at.y, aligned.address, live},
      p,
      tile};
  rows.Run();
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_BACKWARD_DENSE_ROWS_CUH_
