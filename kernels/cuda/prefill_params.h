// What both prefill kernels read: the launch's plain constants, and the scores' units of one query row.
#ifndef TAUSERVE_KERNELS_CUDA_PREFILL_PARAMS_H_
#define TAUSERVE_KERNELS_CUDA_PREFILL_PARAMS_H_

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/attention_args.h"
#include "kernels/cuda/element_pair.cuh"
#include "kernels/cuda/prefill_plan.h"
#include "kernels/cuda/stats_atomics.cuh"
#include "kernels/entmax/weight.h"

namespace tauserve::cuda {

// Kept in the workspace, zeroed before a launch.
struct PrefillCounters {
  int32_t next_block;        // of the search
  int32_t next_dense_block;  // of the dense kernel
  int32_t dense_tiles;       // row tiles left to the dense kernel
  int32_t unused;
};

template <typename Element>
struct PrefillParams {
  AttentionArgsOf<Element> args;
  int group;            // query heads a KV head
  int blocks_per_head;  // over all slices
  int num_blocks;
  int head_group;  // KV heads worked on together
  PrefillCounters* counters;
  int32_t* dense_mask;  // [num_blocks], a bit a row tile
  float* floors;        // [num_blocks][rows of a block], of dense row tiles
  int parts;  // thread blocks that share a block's keys; the last to finish merges their candidates
  int32_t*
      merged;  // [num_blocks][row tiles of a block]: parts done, + kPartDense for each left to the dense kernel
  char* exchange;  // [num_blocks][parts][row tiles of a block] ExchangeSlot

  // What serving alone asks for; its code is left out for float16, which only training has.
  static constexpr bool kServed = !kIsFloat16<Element>;
  __device__ __forceinline__ AttentionStats* Stats() const {
    return kServed ? args.stats : nullptr;
  }
  __device__ __forceinline__ const float* QueryScale() const {
    return kServed ? args.query_scale : nullptr;
  }
  __device__ __forceinline__ const float* PageKeyNorms() const {
    return kServed ? args.page_key_norms : nullptr;
  }
};

inline constexpr int kPartDense = 1 << 16;
inline constexpr int kMaxParts = 8;
inline constexpr int kMaxParted = 528;  // blocks x parts where there is more than one part

// A row tile's candidates of one part, as its 128 threads hold them.
struct ExchangeSlot {
  static constexpr int kEntries = 64;  // at least a thread's capacity
  float floor[128][2];
  int32_t count[128][2];
  uint2 entry[kEntries][128];  // row 0's first, then row 1's
};

// A query row. Scores are kept as raw dot products plus the bias in the same units, so that
//   z = max(score - threshold, 0) / width,  weight = z^e,  width = 1 / ((alpha - 1) scale |query_scale|).
// A negative scale flips the query's sign; with scale 0 the query counts as zero and scale as 1.
struct QueryRow {
  int position = 0;
  int head = 0;
  int row = 0;  // of args.q
  bool live = false;
  bool negate = false;
  bool zero = false;
  float alpha = 1.5f;
  float width = 1;
  float slope = 0;  // bias a token, in raw score units
};

// Row `r` of a slice's (token, head) rows of a KV head.
template <typename Element>
__device__ __forceinline__ QueryRow MakeQueryRow(const PrefillParams<Element>& p,
                                                 const Slice& slice, int kv_head, int r) {
  QueryRow q;
  const int token = r / p.group;
  q.head = kv_head * p.group + (r - token * p.group);
  q.position = slice.context_tokens + token;
  q.row = slice.first_row + token;
  if (token >= slice.num_tokens) {
    q.head = kv_head * p.group;
    return q;
  }
  const Head head = p.args.heads[q.head];
  q.alpha = head.alpha;
  q.live = head.alpha > 1;
  if (!q.live) return q;
  float scale = p.args.scale;
  if (p.QueryScale()) scale *= p.QueryScale()[q.row * p.args.query_scale_stride + q.head];
  q.negate = scale < 0;
  scale = fabsf(scale);
  if (scale < 1e-20f) {
    q.zero = true;
    scale = 1;
  }
  q.width = 1 / ((q.alpha - 1) * scale);
  q.slope = p.args.causal ? head.alibi_slope / scale : 0.0f;
  return q;
}

// The A operand (hopper.h) of a thread's two query rows: q[4i + 2k + h] is row h, columns 16i + 8k + 2(lane % 4).
template <int kDim, typename Element>
__device__ __forceinline__ void LoadQuery(const PrefillParams<Element>& p, const QueryRow& row,
                                          int half, int lane, uint32_t (&q)[kDim / 16][4]) {
  const Element* from = p.args.q + row.row * p.args.q_stride + row.head * kDim + (lane & 3) * 2;
  const uint32_t flip = row.negate ? 0x80008000u : 0u;
#pragma unroll
  for (int i = 0; i < kDim / 16; i++) {
#pragma unroll
    for (int k = 0; k < 2; k++) {
      uint32_t x = 0;
      if (row.live && !row.zero)
        x = *reinterpret_cast<const uint32_t*>(from + i * 16 + k * 8) ^ flip;
      q[i][2 * k + half] = x;
    }
  }
}

// 64 x 16 columns more of the product, against BiasColumns: adds -floor + slope * (key - position) to every score, so
// that the accumulator's sign tells a candidate. Three bf16 hold a float; for float16 queries, too: their type would not hold a
// floor.
__device__ __forceinline__ uint32_t BiasPart(float x, int lane) {
  const __nv_bfloat16 high = __float2bfloat16(x);
  const float rest = x - __bfloat162float(high);
  const __nv_bfloat16 middle = __float2bfloat16(rest);
  const __nv_bfloat16 low = __float2bfloat16(rest - __bfloat162float(middle));
  const uint32_t first = __bfloat16_as_ushort(high) | __bfloat16_as_ushort(middle) << 16;
  const uint32_t second = __bfloat16_as_ushort(low);
  return (lane & 3) == 0 ? first : (lane & 3) == 1 ? second : 0u;
}

// The B operand of those columns for a tile of kKeys: 8 columns of ones and 8 of the key's place in the tile, as
// unswizzled 8 x 8 matrices (leading 128 bytes, stride 256). At most 256 keys: bf16 holds the place exactly.
template <int kKeys>
__device__ __forceinline__ void WriteBiasColumns(__nv_bfloat16* to, int thread, int threads) {
  for (int i = thread; i < kKeys * 16; i += threads) {
    const int matrix = i / 64, key = matrix / 2 * 8 + i % 64 / 8;
    to[i] = __float2bfloat16(matrix % 2 == 0 ? 1.0f : static_cast<float>(key));
  }
}

// A value that all of the warp's threads have, told so to the compiler.
__device__ __forceinline__ int Uniform(int x) { return __shfl_sync(~0u, x, 0); }

__device__ __forceinline__ float QuadSum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ __forceinline__ float QuadMax(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
template <typename T>
__device__ __forceinline__ T WarpSum(T x) {
  for (int o = 16; o; o >>= 1) x += __shfl_xor_sync(~0u, x, o);
  return x;
}

// Counts and thresholds of a launch's rows: a warp's two rows a thread, one writer a quad.
struct RowCounts {
  int support = 0;
  int iterations = 0;
  float residual = 0;
  bool live = false;
};

// Adds a warp's rows; `rows[h]` are the thread's two, equal in the four threads of a quad.
__device__ __forceinline__ void AddRowStats(AttentionStats* stats, const RowCounts (&rows)[2],
                                            int lane) {
  const bool mine = (lane & 3) == 0;
  int count = 0, support = 0, iterations = 0, unconverged = 0;
  float residual = 0;
  for (int h = 0; h < 2; h++) {
    if (!mine || !rows[h].live) continue;
    count++;
    support += rows[h].support;
    iterations += rows[h].iterations;
    unconverged += !Converged(rows[h].residual);
    residual = fmaxf(residual, rows[h].residual);
  }
  count = WarpSum(count);
  support = WarpSum(support);
  iterations = WarpSum(iterations);
  unconverged = WarpSum(unconverged);
  residual = __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(residual)));
  for (int h = 0; h < 2; h++) {
    const bool counts = mine && rows[h].live;
    const int bucket = counts ? SupportBucket(rows[h].support) : -1;
    const uint32_t same = __match_any_sync(~0u, bucket);
    if (counts && lane == __ffs(same) - 1) AddTo(SupportCounter(stats, bucket), __popc(same));
    const int steps = counts ? IterationBucket(rows[h].iterations) : -1;
    const uint32_t same_steps = __match_any_sync(~0u, steps);
    if (counts && lane == __ffs(same_steps) - 1) {
      AddTo(IterationCounter(stats, steps), __popc(same_steps));
    }
  }
  if (lane == 0) {
    AddTo(&stats->rows, count);
    AddTo(&stats->support, support);
    AddTo(&stats->entmax_support, support);
    AddTo(&stats->tau_iterations, iterations);
    AddTo(&stats->unconverged_rows, unconverged);
    RaiseTo(&stats->max_tau_residual, residual);
  }
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_PREFILL_PARAMS_H_
