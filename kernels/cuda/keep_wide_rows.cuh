// Entries of rows that the prefill kernels finished densely, and for which they kept a threshold and a count alone.
#ifndef TAUSERVE_KERNELS_CUDA_KEEP_WIDE_ROWS_CUH_
#define TAUSERVE_KERNELS_CUDA_KEEP_WIDE_ROWS_CUH_

#include "kernels/cuda/scored_rows.cuh"

namespace tauserve::cuda {

// Of the keys that a tile's rows see, at most so many have weight: beyond, the backward pass is faster on tensor cores.
inline constexpr int kSeenKeysAKept = 16;

template <typename Element, int kDim>
struct WideRowKeeper : ScoredRows<Element, kDim, 2, false> {
  static constexpr int kRowTiles = 2;
  using Rows = ScoredRows<Element, kDim, kRowTiles, false>;
  static constexpr int kStagedBytes = kTrainingTile / 8 * kDenseThreads * sizeof(float4);
  static constexpr int kSharedBytes = Rows::Shape::kSharedBytes + kStagedBytes;
  using Rows::kept;
  using Rows::lane;
  using Rows::threshold;
  using typename Rows::Scores;

  float4* const staged;          // [kTrainingTile / 8][kDenseThreads], a thread's own
  int32_t count[kRowTiles][2];   // room of the thread's rows
  int32_t cursor[kRowTiles][2];  // entries so far
  KeptEntry* to[kRowTiles][2];

  __device__ void Run() {
    this->Start();
    if (!Worthwhile()) return;
    Allocate();
    this->template ForTiles<true>([&](int key_tile, uint32_t keys) {
      Scores x;
      if (this->Multiply(key_tile, keys, x)) Append(key_tile * kTrainingTile, x);
    });
#pragma unroll
    for (int m = 0; m < kRowTiles; m++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        if (lane % 4 != 0 || !(threshold[m][h] < INFINITY)) continue;
        kept.first[this->RowOf(m, h)] = to[m][h] - kept.entries;
        kept.count[this->RowOf(m, h)] = min(cursor[m][h], count[m][h]);
      }
    }
  }

  __device__ __forceinline__ bool Worthwhile() {
    int weighted = 0, seen = 0;
#pragma unroll
    for (int m = 0; m < kRowTiles; m++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        count[m][h] = cursor[m][h] = 0;
        if (!(threshold[m][h] < INFINITY)) continue;
        count[m][h] = kept.count[this->RowOf(m, h)];
        if (lane % 4 != 0) continue;
        const KeyRange visible = this->Visible(this->TokenOf(m, h));
        weighted += count[m][h];
        seen += visible.end - visible.begin;
      }
    }
    __shared__ int sums[2];
    if (threadIdx.x < 2) sums[threadIdx.x] = 0;
    __syncthreads();
    atomicAdd(&sums[0], weighted);
    atomicAdd(&sums[1], seen / kSeenKeysAKept);
    __syncthreads();
    return sums[0] > 0 && sums[0] <= sums[1];
  }

  // Room for the warp's rows, one behind the other.
  __device__ __forceinline__ void Allocate() {
    int mine = 0;
    if (lane % 4 == 0) {
#pragma unroll
      for (int i = 0; i < 2 * kRowTiles; i++) mine += count[i / 2][i % 2];
    }
    int sum = mine;
#pragma unroll
    for (int o = 1; o < 32; o *= 2) {
      const int below = __shfl_up_sync(~0u, sum, o);
      if (lane >= o) sum += below;
    }
    const int total = __shfl_sync(~0u, sum, 31);
    unsigned long long base = 0;
    if (lane == 0) base = atomicAdd(kept.used, static_cast<unsigned long long>(total));
    base = __shfl_sync(~0u, base, 0);
    const bool fits = static_cast<int64_t>(base) + total <= kept.capacity;
    KeptEntry* at = kept.entries + base + __shfl_sync(~0u, sum - mine, lane & ~3);
#pragma unroll
    for (int m = 0; m < kRowTiles; m++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        to[m][h] = at;
        at += count[m][h];
        if (!fits) threshold[m][h] = INFINITY;
      }
    }
  }

  // A thread's scores go to shared memory, from where those with weight are taken by their places.
  __device__ __forceinline__ void Append(int first_key, const Scores& x) {
    const int key = this->sequence.first_key + first_key + 2 * (lane % 4);
#pragma unroll
    for (int m = 0; m < kRowTiles; m++) {
      uint32_t below[2] = {0, 0};  // signs of a row's 16 scores, the first one's highest
#pragma unroll
      for (int n = 0; n < kTrainingTile / 8; n++) {
        staged[n * kDenseThreads + threadIdx.x] =
            make_float4(x[m][n][0], x[m][n][1], x[m][n][2], x[m][n][3]);
#pragma unroll
        for (int i = 0; i < 4; i++) {
          below[i / 2] = __funnelshift_l(__float_as_uint(x[m][n][i]), below[i / 2], 1);
        }
      }
#pragma unroll
      for (int h = 0; h < 2; h++) {
        uint32_t weighted = ~below[h] & 0xffff;
        const int mine = __popc(weighted);
        int sum = mine;
#pragma unroll
        for (int o = 1; o < 4; o *= 2) {
          const int before = __shfl_up_sync(~0u, sum, o, 4);
          if (lane % 4 >= o) sum += before;
        }
        // Rounded otherwise than in the prefill kernel, there may be one more.
        KeptEntry* at = to[m][h] + (cursor[m][h] + sum - mine);
        const KeptEntry* const end = to[m][h] + count[m][h];
        cursor[m][h] += __shfl_sync(~0u, sum, 3, 4);
        while (weighted != 0 && at < end) {
          const int place = __clz(weighted) - 16, n = place / 2, e = place % 2;
          weighted &= ~(0x8000u >> place);
          const float over =
              reinterpret_cast<const float*>(&staged[n * kDenseThreads + threadIdx.x])[2 * h + e];
          *at++ = KeptEntry::Make(over * this->constants.inverse_width, key + 8 * n + e);
        }
        __syncwarp();
      }
    }
  }
};

// Blocks of two row tiles; those of odd ones have nothing to do.
template <typename Element, int kDim>
__global__ void __launch_bounds__(kDenseThreads)
    KeepWideRows(const __grid_constant__ TrainingBatch batch,
                 const __grid_constant__ KeptSupport kept, const Element* q, const Element* k,
                 const __grid_constant__ TrainingTiles tiles) {
  using Keeper = WideRowKeeper<Element, kDim>;
  extern __shared__ __align__(128) char shared[];
  const int tile = tiles.num_row_tiles * batch.num_heads - 1 - blockIdx.x;
  const int head = tile % batch.num_heads;
  const int2 at = tiles.row_tiles[tile / batch.num_heads];
  if (at.y % Keeper::kRows != 0) return;
  const TrainedSequence sequence = batch.sequences[at.x];
  static_assert(Keeper::kRows <= kDenseThreads);
  bool wide = false;
  if (threadIdx.x < Keeper::kRows && at.y + threadIdx.x < sequence.num_tokens) {
    const int64_t token = sequence.first_token + at.y + threadIdx.x;
    wide = kept.first[token * batch.num_heads + head] < 0;
  }
  if (!__syncthreads_or(wide)) return;
  const AlignedShared aligned = AlignShared(shared);
  char* const rest = aligned.begin + Keeper::Shape::kTileBytes;
  uint32_t* const live = reinterpret_cast<uint32_t*>(rest + Keeper::kStagedBytes);
  Keeper rows{{batch, kept, q, k, nullptr, nullptr, sequence, head, at.y, aligned.address, live},
              reinterpret_cast<float4*>(rest)};
  rows.Run();
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_KEEP_WIDE_ROWS_CUH_
