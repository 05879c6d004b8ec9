#include <algorithm>
#include <climits>

#include "kernels/cuda/attention_generic.h"
#include "kernels/cuda/attention_generic_gap.cuh"
#include "kernels/cuda/attention_generic_tile.cuh"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/stats_atomics.cuh"

namespace tauserve::cuda {
namespace generic {

// Weights of the thread's keys of a page go to the tile's; whether there is one.
template <int kDimSteps>
__device__ bool PutWeights(const Block& b, Shared& shared, const ThreadRows<kDimSteps>& rows,
                           const float (&score)[2][2]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = lane % 4;
  bool any = false;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = lane / 4 + 8 * half;
    uint32_t bits = 0;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const float z = score[half][i] - rows.max[half] + rows.gap[half];
      const float p = z > 0 ? entmax::Weight(b.weight, z) : 0;
      shared.weight[row][warp * kWarpKeys + 2 * part + i] = p;
      bits |= (p > 0 ? 1u : 0u) << (2 * part + i);
    }
    for (int offset = 1; offset < 4; offset *= 2) bits |= __shfl_xor_sync(~0u, bits, offset);
    if (part == 0) {
      shared.has_weight[row][warp] = static_cast<uint8_t>(bits);
      if (bits != 0) atomicAdd(&shared.row[row].support, __popc(bits));
    }
    any |= bits != 0;
  }
  return any;
}

// Last pass: weights of a page, then their share of the output. Values are read for keys with weight only. Thread i has
// elements i, i + kThreads, ... of the tile's [rows][head_dim] output.
template <int kDimSteps>
__device__ void AddValues(const Block& b, Shared& shared, const ThreadRows<kDimSteps>& rows,
                          uint32_t* attended) {
  constexpr int kPages = kPagesAtOnce<kDimSteps>;
  const AttentionArgs& args = *b.args;
  const int dim_steps = args.head_dim / 16, head_dim = args.head_dim;
  float out[kDimSteps] = {};
  for (int newest = b.last_page; newest >= b.first_page; newest -= kPages) {
    PageScores<kDimSteps> scores;
    // Maxima and gaps are the same for all warps here, so their pages are too.
    if (!ScorePages(b, rows, newest, rows.max, scores)) continue;
#pragma unroll
    for (int p = 0; p < kPages; p++) {
      if (!scores.live[p]) continue;
      const bool any = PutWeights(b, shared, rows, scores.score[p]);
      if (__syncthreads_or(any)) {
        const int page = newest - p;
        if (threadIdx.x == 0) attended[page / 32] |= 1u << page % 32;
        const int64_t block = int64_t{b.pages[page]} * args.num_kv_heads + b.kv_head;
        const bf16* values = args.values + block * kPageTokens * head_dim;
#pragma unroll
        for (int s = 0; s < kDimSteps; s++) {
          if (s >= dim_steps) continue;
          const int row = (s * kThreads + threadIdx.x) / head_dim;
          const int d = (s * kThreads + threadIdx.x) % head_dim;
          uint64_t keys = *reinterpret_cast<const uint64_t*>(shared.has_weight[row]);
          for (; keys != 0; keys &= keys - 1) {
            const int k = __ffsll(keys) - 1;
            out[s] =
                fmaf(shared.weight[row][k], __bfloat162float(values[k * head_dim + d]), out[s]);
          }
        }
      }
      __syncthreads();
    }
  }
#pragma unroll
  for (int s = 0; s < kDimSteps; s++) {
    if (s >= dim_steps) continue;
    const int row = (s * kThreads + threadIdx.x) / head_dim;
    const int d = (s * kThreads + threadIdx.x) % head_dim;
    if (row >= b.tokens) continue;
    const int64_t batch_row = b.slice.first_row + b.first_token + row;
    // Without a finite score the sum is zero, the output not a number.
    args.out[batch_row * args.out_stride + b.head * head_dim + d] =
        __float2bfloat16(out[s] / shared.row[row].sum);
  }
}

__device__ void MakeRow(const Block& b, RowState& row, int r) {
  const AttentionArgs& args = *b.args;
  const Head& head = args.heads[b.head];
  const int64_t batch_row = b.slice.first_row + b.first_token + r;
  row = {};
  row.done = r >= b.tokens;
  row.last_key = -1;
  if (row.done) return;
  row.position = b.slice.context_tokens + b.first_token + r;
  row.last_key = args.causal ? row.position : b.slice.context_tokens + b.slice.num_tokens - 1;
  if (args.causal && args.sliding_window > 0) {
    row.first_key = max(0, row.position - args.sliding_window + 1);
  }
  const float width = head.alpha - 1;
  const float scale =
      args.query_scale ? args.query_scale[batch_row * args.query_scale_stride + b.head] : 1;
  row.factor = width * args.scale * scale;
  row.slope = args.causal ? width * head.alibi_slope : 0;
}

__device__ void CountTile(const Block& b, const Shared& shared) {
  AttentionStats& stats = b.args->stats[blockIdx.z];
  if (threadIdx.x >= b.tokens) return;
  const RowState& row = shared.row[threadIdx.x];
  const int64_t keys = row.last_key - row.first_key + 1;
  AddTo(&stats.keys_considered, keys);
  if (threadIdx.x == 0) AddTo(&stats.keys_scored, shared.keys_scored);
  AddTo(&stats.rows, 1);
  if (row.max > -kInfinity) {
    CountEntmaxRow(&stats, row.support, row.steps, fabsf(row.sum - 1));
  }
}

// grid: (stretches of 64 positions, heads, slices).
template <int kDimSteps>
__global__ void __launch_bounds__(kThreads, 1)
    GenericKernel(const __grid_constant__ AttentionArgs args) {
  __shared__ Shared shared;
  extern __shared__ uint32_t attended[];  // bit a page; then the same of pages read
  uint32_t* const read = attended + (args.num_pages + 31) / 32;
  Block b;
  b.args = &args;
  b.head = blockIdx.y;
  b.kv_head = b.head / (args.num_heads / args.num_kv_heads);
  b.slice = args.slices[blockIdx.z];
  b.pages = args.page_table + b.slice.first_page;
  const Head head = args.heads[b.head];
  if (head.alpha == 1) return;
  b.bounded = args.causal && head.alibi_slope > 0 && args.page_key_norms != nullptr;
  b.weight = entmax::MakeWeightFunction(head.alpha);
  const int stretch = b.slice.context_tokens / kPageTokens + blockIdx.x;
  const int begin = max(0, stretch * kPageTokens - b.slice.context_tokens);
  const int end = min(b.slice.num_tokens, (stretch + 1) * kPageTokens - b.slice.context_tokens);
  if (begin >= end) return;

  int first_page = INT_MAX, last_page = 0;
  for (b.first_token = begin; b.first_token < end; b.first_token += kTileRows) {
    b.tokens = min(kTileRows, end - b.first_token);
    if (threadIdx.x == 0) shared.keys_scored = 0;
    if (threadIdx.x < kTileRows) {
      MakeRow(b, shared.row[threadIdx.x], threadIdx.x);
      entmax::Clear(shared.histogram[threadIdx.x]);
    }
    __syncthreads();
    b.first_page = shared.row[0].first_key / kPageTokens;
    b.last_page = shared.row[b.tokens - 1].last_key / kPageTokens;
    for (int w = threadIdx.x + (b.first_token == begin ? 0 : (last_page / 32 + 1));
         w <= b.last_page / 32; w += kThreads) {
      attended[w] = read[w] = 0;
    }
    __syncthreads();
    first_page = min(first_page, b.first_page);
    last_page = max(last_page, b.last_page);
    ThreadRows<kDimSteps> rows;
    LoadQueries(b, shared, rows);
    FindMaxima(b, shared, rows, read);
    FindBrackets(b, shared, rows);
    FindGaps(b, shared, rows);
    AddValues(b, shared, rows, attended);
    __syncthreads();
    CountTile(b, shared);
    __syncthreads();
  }

  if (threadIdx.x != 0) return;
  AttentionStats& stats = args.stats[blockIdx.z];
  const int64_t pages = last_page - first_page + 1;
  int64_t attended_pages = 0, read_pages = 0;
  for (int w = 0; w <= last_page / 32; w++) {
    attended_pages += __popc(attended[w]);
    read_pages += __popc(read[w]);
  }
  if (!b.bounded) read_pages = pages;
  AddTo(&stats.blocks_considered, pages);
  AddTo(&stats.blocks_scored, read_pages);
  AddTo(&stats.blocks_attended, attended_pages);
  AddTo(&stats.pages_considered, pages);
  AddTo(&stats.pages_read, read_pages);
  // The keys once, whatever the passes: later ones find them in the cache.
  AddTo(&stats.kv_bytes_read,
        (read_pages + attended_pages) * kPageTokens * args.head_dim * int64_t{sizeof(bf16)});
}

template <int kDimSteps>
void Launch(const AttentionArgs& args, int stretches) {
  // Of the pool's size, not of the slices': a captured launch stays right for longer ones.
  const size_t attended_bytes = 2 * ((args.num_pages + 31) / 32) * sizeof(uint32_t);
  const dim3 grid(stretches, args.num_heads, args.num_slices);
  auto* kernel = GenericKernel<kDimSteps>;
  CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(attended_bytes)));
  kernel<<<grid, kThreads, attended_bytes, args.stream>>>(args);
  CUDA_CHECK(cudaGetLastError());
}

}  // namespace generic

void AttentionGeneric(const AttentionArgs& args) {
  int stretches = 0;
  for (int s = 0; s < args.num_slices; s++) {
    const Slice& slice = args.host_slices[s];
    const int end = slice.context_tokens + slice.num_tokens;
    stretches =
        std::max(stretches, (end - 1) / kPageTokens - slice.context_tokens / kPageTokens + 1);
  }
  if (stretches == 0) return;
  if (args.head_dim <= 64) {
    generic::Launch<4>(args, stretches);
  } else if (args.head_dim <= 128) {
    generic::Launch<8>(args, stretches);
  } else {
    generic::Launch<16>(args, stretches);
  }
}

}  // namespace tauserve::cuda
