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
  const uint32_t page = token / kPageTokens, slot = token % kPageTokens;
  return int64_t{(page * args.num_kv_heads + kv_head) * kPageTokens + slot} * kHeadDim;
}

__device__ __forceinline__ void AddScaled(float weight, uint4 x, float (&sum)[8]) {
  const uint32_t pair[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    sum[2 * i] += weight * Low(pair[i]);
    sum[2 * i + 1] += weight * High(pair[i]);
  }
}

// The warps of a merge share the columns evenly; a warp reads kRows rows at once, every `streams`-th of its column's list.
template <int kHeadDim>
struct MergeStreams {
  int columns;
  int column;
  int part;  // of the column's warps
  int parts;
  int streams;  // of the column
  int first;    // the lane's row
  int staged;   // values of a column's first candidates, kept in shared memory

  __device__ __forceinline__ explicit MergeStreams(const DecodeGroup& group) {
    using Lanes = RowLanes<kHeadDim>;
    const int warp = threadIdx.x >> 5;
    const int bits = (group.num_columns > 1) + (group.num_columns > 2) + (group.num_columns > 4);
    columns = 1 << bits;
    column = warp & (columns - 1);
    part = warp >> bits;
    parts = kWarps >> bits;
    streams = parts * Lanes::kRows;
    first = part * Lanes::kRows + Lanes::Row();
    staged = kStagedBytes / (kHeadDim * 2) >> bits;
  }

  static constexpr int kPartialBytes = kWarps * kHeadDim * static_cast<int>(sizeof(float));
  static constexpr int kStagedBytes = kListBytes - kPartialBytes;

  __device__ __forceinline__ char* Row(int e) const {
    return ValueRows() + kPartialBytes + (column * staged + e) * kHeadDim * 2 +
           RowLanes<kHeadDim>::Rank() * 16;
  }
};

__device__ __forceinline__ void CopyAsync(char* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(SharedAddress(to)), "l"(from)
               : "memory");
}
__device__ __forceinline__ void WaitForRows() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Makes scores exact that are bounds so far: rows of keys as a product's operand, 16 candidates at a time.
template <int kHeadDim>
__device__ __forceinline__ void Rescore(const Params& p) {
  constexpr int kBlocks = kHeadDim <= 128 ? 2 : 1;  // of 16 candidates in flight
  constexpr int kChunks = kHeadDim / 32;
  const AttentionArgs& args = p.args;
  const BlockShared& shared = Shared();
  const DecodeGroup& group = shared.piece.group;
  const MergeStreams<kHeadDim> at(group);
  if (at.column >= group.num_columns) return;
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  Candidate* list = MergedList(p, at.column);
  const int count = shared.merged[at.column];
  Bf16Queries<kHeadDim> queries;
  queries.Load(args, group);
  const float mul = shared.mul[at.column];
#pragma unroll 1
  for (int first = at.part * kBlocks * 16; first < count; first += at.parts * kBlocks * 16) {
    uint4 k[kBlocks][2][kChunks];
#pragma unroll
    for (int m = 0; m < kBlocks; m++) {
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const int e = min(first + m * 16 + r * 8 + g, count - 1);
        const __nv_bfloat16* row =
            args.keys + RowOffset<kHeadDim>(args, group.kv_head, list[e].token) + t * 8;
#pragma unroll
        for (int i = 0; i < kChunks; i++) k[m][r][i] = LoadStreaming(row + i * 32);
      }
    }
    __syncwarp();
#pragma unroll
    for (int m = 0; m < kBlocks; m++) {
      float c[4] = {0, 0, 0, 0};
      DotBf16<kHeadDim>(k[m][0], k[m][1], queries, c);
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const int e = first + m * 16 + r * 8 + g;
        if (t == at.column / 2 && e < count) {
          Candidate& x = list[e];
          x.upper = x.lower = mul * (at.column % 2 ? c[2 * r + 1] : c[2 * r]) + x.bias;
        }
      }
    }
  }
}

// Has the candidates' values copied to shared memory, as far as there is room.
template <int kHeadDim>
__device__ __forceinline__ void FetchValues(const Params& p) {
  using Lanes = RowLanes<kHeadDim>;
  const AttentionArgs& args = p.args;
  const BlockShared& shared = Shared();
  const DecodeGroup& group = shared.piece.group;
  const MergeStreams<kHeadDim> at(group);
  if (at.column >= group.num_columns || !Lanes::Active()) return;
  const Candidate* list = MergedList(p, at.column);
  const int end = min(shared.merged[at.column], at.staged);
#pragma unroll 2
  for (int e = at.first; e < end; e += at.streams) {
    CopyAsync(at.Row(e), args.values + RowOffset<kHeadDim>(args, group.kv_head, list[e].token) +
                             Lanes::Rank() * 8);
  }
}

// out = sum of weight * value. By the whole block, when FetchValues() is done.
template <int kHeadDim>
__device__ __forceinline__ void Gather(const Params& p) {
  using Lanes = RowLanes<kHeadDim>;
  const AttentionArgs& args = p.args;
  const BlockShared& shared = Shared();
  const DecodeGroup& group = shared.piece.group;
  const MergeStreams<kHeadDim> at(group);
  float* partial = reinterpret_cast<float*>(ValueRows());
  constexpr int kUnroll = 4;
  const int warp = threadIdx.x >> 5, rank = Lanes::Rank();
  float sum[8] = {};
  if (at.column < group.num_columns) {
    const Candidate* list = MergedList(p, at.column);
    const int count = shared.merged[at.column];
#pragma unroll 1
    for (int first = at.first; first < count; first += at.streams * kUnroll) {
      uint4 x[kUnroll];
      float weight[kUnroll];
#pragma unroll
      for (int i = 0; i < kUnroll; i++) {
        const int e = first + i * at.streams;
        x[i] = make_uint4(0, 0, 0, 0);
        weight[i] = e < count ? list[e].lower : 0.0f;
        if (!(weight[i] > 0) || !Lanes::Active()) continue;
        if (e < at.staged) {
          x[i] = *reinterpret_cast<const uint4*>(at.Row(e));
        } else {
          x[i] = LoadStreaming(args.values +
                               RowOffset<kHeadDim>(args, group.kv_head, list[e].token) + rank * 8);
        }
      }
#pragma unroll
      for (int i = 0; i < kUnroll; i++) AddScaled(weight[i], x[i], sum);
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
    float4* to = reinterpret_cast<float4*>(partial + warp * kHeadDim + rank * 8);
    to[0] = {sum[0], sum[1], sum[2], sum[3]};
    to[1] = {sum[4], sum[5], sum[6], sum[7]};
  }
  __syncthreads();
#pragma unroll 1
  for (int i = threadIdx.x; i < group.num_columns * (kHeadDim / 2); i += kThreads) {
    const int c = i / (kHeadDim / 2), d = i % (kHeadDim / 2);
    float2 out{0, 0};
#pragma unroll 2
    for (int w = c; w < kWarps; w += at.columns) {
      const float2 part = reinterpret_cast<const float2*>(partial + w * kHeadDim)[d];
      out.x += part.x;
      out.y += part.y;
    }
    reinterpret_cast<__nv_bfloat162*>(args.out + group.row * args.out_stride +
                                      static_cast<int64_t>(group.head[c]) * kHeadDim)[d] =
        __float22bfloat162_rn(out);
  }
}

}  // namespace tauserve::cuda::decode

#endif  // TAUSERVE_KERNELS_CUDA_DECODE_ROWS_CUH_
