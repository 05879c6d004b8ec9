// Single rows of keys and values of a page: exact scores of candidates, and the weighted sum of the support's values.
#ifndef TAUSERVE_KERNELS_CUDA_DECODE_ROWS_CUH_
#define TAUSERVE_KERNELS_CUDA_DECODE_ROWS_CUH_

#include "kernels/cuda/decode_block.cuh"

namespace tauserve::cuda::decode {

// Lanes that share a row of keys or values, 16 bytes each: a power of two, some idle at head_dim 96.
template <int kHeadDim>
struct RowLanes {
  static constexpr int kLanes = kHeadDim <= 64 ? 8 : kHeadDim <= 128 ? 16 : 32;
  static constexpr int kRows = 32 / kLanes;  // of a warp's load
  __device__ static __forceinline__ int Rank() { return threadIdx.x & (kLanes - 1); }
  __device__ static __forceinline__ int Row() { return (threadIdx.x & 31) / kLanes; }
  __device__ static __forceinline__ bool Active() { return Rank() * 8 < kHeadDim; }
};

template <int kHeadDim>
__device__ __forceinline__ int64_t RowOffset(const AttentionArgs& args, int kv_head,
                                             uint32_t token) {
  const int64_t page = token / kPageTokens, slot = token % kPageTokens;
  return ((page * args.num_kv_heads + kv_head) * kPageTokens + slot) * kHeadDim;
}

__device__ __forceinline__ void AddScaled(float weight, uint4 x, float (&sum)[8]) {
  const uint32_t pair[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    sum[2 * i] += weight * Low(pair[i]);
    sum[2 * i + 1] += weight * High(pair[i]);
  }
}

__device__ __forceinline__ float Dot8(uint4 x, uint4 y) {
  const uint32_t a[4] = {x.x, x.y, x.z, x.w}, b[4] = {y.x, y.y, y.z, y.w};
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) sum += Low(a[i]) * Low(b[i]) + High(a[i]) * High(b[i]);
  return sum;
}

// Exact scores for the candidates of all columns, by the whole block.
template <int kHeadDim>
__device__ __forceinline__ void Rescore(const AttentionArgs& args, const Block& block) {
  using Lanes = RowLanes<kHeadDim>;
  const BlockShared& shared = block.shared;
  const DecodeGroup& group = shared.group;
  int total = 0;
#pragma unroll 1
  for (int c = 0; c < group.num_columns; c++) total += shared.merged[c];
  const int rank = Lanes::Rank();
  constexpr int kUnroll = kHeadDim <= 128 ? 4 : 2;  // rows in flight
  constexpr int kStride = kWarps * Lanes::kRows;
#pragma unroll 1
  for (int first = (threadIdx.x >> 5) * Lanes::kRows + Lanes::Row(); first - Lanes::Row() < total;
       first += kStride * kUnroll) {
    Candidate* candidate[kUnroll];
    uint4 q[kUnroll], k[kUnroll];
    float mul[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; i++) {
      int column = 0, e = first + i * kStride;
      candidate[i] = nullptr;
      q[i] = k[i] = make_uint4(0, 0, 0, 0);
      if (e >= total) continue;
#pragma unroll 1
      while (e >= shared.merged[column]) e -= shared.merged[column++];
      candidate[i] = block.merged_list(column) + e;
      mul[i] = shared.mul[column];
      if (Lanes::Active()) {
        q[i] = __ldg(reinterpret_cast<const uint4*>(QueryOf(args, group, column) + rank * 8));
        k[i] = LoadStreaming(
            args.keys + RowOffset<kHeadDim>(args, group.kv_head, candidate[i]->token) + rank * 8);
      }
    }
#pragma unroll
    for (int i = 0; i < kUnroll; i++) {
      float sum = Dot8(q[i], k[i]);
#pragma unroll
      for (int o = Lanes::kLanes / 2; o > 0; o >>= 1) sum += __shfl_xor_sync(kFullWarp, sum, o);
      if (rank == 0 && candidate[i] != nullptr) {
        candidate[i]->upper = candidate[i]->lower = mul[i] * sum + candidate[i]->bias;
      }
    }
  }
}

// out = sum of weight * value. Warps share the columns evenly.
template <int kHeadDim>
__device__ __forceinline__ void Gather(const AttentionArgs& args, const Block& block) {
  using Lanes = RowLanes<kHeadDim>;
  const BlockShared& shared = block.shared;
  const DecodeGroup& group = shared.group;
  float* partial = reinterpret_cast<float*>(block.lists);
  constexpr int kUnroll = kHeadDim <= 128 ? 4 : 2;
  const int warp = threadIdx.x >> 5, rank = Lanes::Rank();
  const int columns = group.num_columns == 1 ? 1 : PaddedColumns(group.num_columns);
  const int column = warp % columns, warps = kWarps / columns;
  const int streams = warps * Lanes::kRows;
  float sum[8] = {};
  if (column < group.num_columns) {
    const Candidate* list = block.merged_list(column);
    const int support = shared.support[column];
#pragma unroll 1
    for (int e = warp / columns * Lanes::kRows + Lanes::Row(); e < support;
         e += streams * kUnroll) {
      uint4 x[kUnroll];
      float weight[kUnroll];
#pragma unroll
      for (int k = 0; k < kUnroll; k++) {
        x[k] = make_uint4(0, 0, 0, 0);
        weight[k] = 0;
        if (e + k * streams < support && Lanes::Active()) {
          const Candidate& c = list[e + k * streams];
          weight[k] = c.lower;
          x[k] = LoadStreaming(args.values + RowOffset<kHeadDim>(args, group.kv_head, c.token) +
                               rank * 8);
        }
      }
#pragma unroll
      for (int k = 0; k < kUnroll; k++) AddScaled(weight[k], x[k], sum);
    }
  }
#pragma unroll
  for (int i = 0; i < 8; i++) {
#pragma unroll
    for (int o = Lanes::kLanes; o < 32; o <<= 1) {
      sum[i] += __shfl_xor_sync(kFullWarp, sum[i], o);
    }
  }
  if (Lanes::Row() == 0 && Lanes::Active()) {
#pragma unroll
    for (int i = 0; i < 8; i++) partial[warp * kHeadDim + rank * 8 + i] = sum[i];
  }
  __syncthreads();
#pragma unroll 1
  for (int i = threadIdx.x; i < group.num_columns * kHeadDim; i += kThreads) {
    const int c = i / kHeadDim, d = i % kHeadDim;
    float out = 0;
#pragma unroll 1
    for (int w = 0; w < warps; w++) out += partial[(w * columns + c) * kHeadDim + d];
    args.out[group.row * args.out_stride + static_cast<int64_t>(group.head[c]) * kHeadDim + d] =
        __float2bfloat16(out);
  }
}

}  // namespace tauserve::cuda::decode

#endif  // TAUSERVE_KERNELS_CUDA_DECODE_ROWS_CUH_
