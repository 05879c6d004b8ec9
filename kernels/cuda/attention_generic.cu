#include <algorithm>
#include <climits>

#include "kernels/cuda/attention_generic.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/stats_atomics.cuh"
#include "kernels/entmax/threshold.h"

namespace tauserve::cuda {
namespace {

using bf16 = __nv_bfloat16;
using entmax::PowerSums;
using entmax::WeightFunction;

// A block attends with one head, for the rows of a slice whose positions lie in one stretch of 64: the statistics' block.
// It takes them in tiles of 16, the rows of a tensor core's product; each of its 8 warps scores 8 keys of a page.
constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kTileRows = 16;
constexpr int kWarpKeys = kPageTokens / kWarps;
constexpr float kInfinity = __builtin_huge_valf();

struct RowState {
  float max;  // of the scaled scores
  float gap;  // u of entmax/weight.h
  float sum;  // of the weights at `gap`, or of softmax's exponentials
  float
      factor;  // dot product -> scaled score: (alpha - 1) * scale * query_scale; softmax without alpha - 1
  float slope;  // likewise, a token of distance
  int position;
  int first_key, last_key;  // visible; none in rows that fill up a tile
  int steps;
  int support;
  bool done;
  entmax::Bracket bracket;
};

struct Shared {
  RowState row[kTileRows];
  PowerSums sums[kWarps][kTileRows];  // also maxima, in s0
  entmax::Histogram histogram[kTileRows];
  float weight[kTileRows][kPageTokens + 1];  // of the page at hand; padded against bank conflicts
  int keys_scored;
};

// What all of the block's threads know.
struct Block {
  const AttentionArgs* args;
  WeightFunction weight;
  bool softmax;
  bool bounded;  // far pages may have no weight, and norms tell
  Slice slice;
  const int32_t* pages;
  int head, kv_head;
  int tokens;       // of the tile
  int first_token;  // of the tile, in the slice
  int first_page, last_page;
};

// A thread's share of a tile's queries (two rows, g and g + 8, of mma's A fragments) and of those rows' state.
template <int kDimSteps>
struct ThreadRows {
  uint32_t q[kDimSteps][4];
  float factor[2], slope[2], max[2], gap[2];
  float reach[2];  // a score is at most so much times its key's norm, before the bias
  int position[2], first_key[2], last_key[2];
};

__device__ void Multiply(const uint32_t (&a)[4], uint2 b, float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
}

__device__ float SquaresOf(uint32_t two) {
  const float low = __uint_as_float(two << 16), high = __uint_as_float(two & 0xffff0000);
  return low * low + high * high;
}

// The product's order of dims is free as long as queries and keys have the same: a lane takes four neighbours.
template <int kDimSteps>
__device__ void LoadQueries(const Block& b, const Shared& shared, ThreadRows<kDimSteps>& rows) {
  const AttentionArgs& args = *b.args;
  const int group = threadIdx.x % 32 / 4, part = threadIdx.x % 4;
  const int dim_steps = args.head_dim / 16;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int r = group + 8 * half;
    const RowState& row = shared.row[r];
    rows.factor[half] = row.factor;
    rows.slope[half] = row.slope;
    rows.gap[half] = 1;  // at most
    rows.position[half] = row.position;
    rows.first_key[half] = row.first_key;
    rows.last_key[half] = row.last_key;
    const int64_t batch_row = b.slice.first_row + b.first_token + min(r, b.tokens - 1);
    const bf16* q = args.q + batch_row * args.q_stride + b.head * args.head_dim + 4 * part;
    float squares = 0;
#pragma unroll
    for (int s = 0; s < kDimSteps; s++) {
      if (s >= dim_steps) continue;
      const uint2 four = *reinterpret_cast<const uint2*>(q + 16 * s);
      rows.q[s][half] = four.x;
      rows.q[s][2 + half] = four.y;
      squares += SquaresOf(four.x) + SquaresOf(four.y);
    }
    for (int offset = 1; offset < 4; offset *= 2) {
      squares += __shfl_xor_sync(~0u, squares, offset);
    }
    rows.reach[half] = fabsf(row.factor) * sqrtf(squares) * (1 + 1e-4f);
  }
}

// Whether the distance bias leaves no row of the tile a key of the page with weight: |q . k| <= |q| |k|. The same for all
// lanes of a warp. `max`: of each row, or less.
template <int kDimSteps>
__device__ bool IsTooFar(const Block& b, const ThreadRows<kDimSteps>& rows, int page,
                         const float (&max)[2], const float (&gap)[2]) {
  if (!b.bounded) return false;
  const AttentionArgs& args = *b.args;
  const float norm = args.page_key_norms[int64_t{b.pages[page]} * args.num_kv_heads + b.kv_head];
  bool far = true;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int distance = rows.position[half] - ((page + 1) * kPageTokens - 1);
    const float bias = rows.slope[half] * static_cast<float>(min(0, -distance));
    const float highest = fmaf(rows.reach[half], norm, bias);
    // A score's own rounding is far below the margin.
    const bool none = highest + 1e-4f * (1 + fabsf(bias)) < max[half] - gap[half];
    far &= none || rows.first_key[half] > rows.last_key[half];
  }
  return __all_sync(~0u, far);
}

// Scaled scores of the thread's two rows with two neighbouring keys: [row][key], -infinity where not visible.
template <int kDimSteps>
__device__ void ScoreKeys(const Block& b, const ThreadRows<kDimSteps>& rows, int page,
                          float (&score)[2][2]) {
  const AttentionArgs& args = *b.args;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = lane % 4;
  const int dim_steps = args.head_dim / 16;
  const int64_t block = int64_t{b.pages[page]} * args.num_kv_heads + b.kv_head;
  const int place = warp * kWarpKeys + lane / 4;
  const bf16* key = args.keys + (block * kPageTokens + place) * args.head_dim + 4 * part;
  float c[4] = {};
#pragma unroll
  for (int s = 0; s < kDimSteps; s++) {
    if (s < dim_steps) Multiply(rows.q[s], *reinterpret_cast<const uint2*>(key + 16 * s), c);
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int j = page * kPageTokens + warp * kWarpKeys + 2 * part + i;
      const float bias = rows.slope[half] * static_cast<float>(j - rows.position[half]);
      const bool visible = j >= rows.first_key[half] && j <= rows.last_key[half];
      score[half][i] = visible ? fmaf(rows.factor[half], c[2 * half + i], bias) : -kInfinity;
    }
  }
}

// visit(half, score) for every score of the thread's rows, the newest page first. Pages without weight are left out.
template <int kDimSteps, typename Visit>
__device__ void ForScores(const Block& b, const ThreadRows<kDimSteps>& rows, const Visit& visit) {
  // Pages at once, so that their keys are on the way together.
  constexpr int kPages = 16 / kDimSteps;
#pragma unroll kPages
  for (int page = b.last_page; page >= b.first_page; page--) {
    if (IsTooFar(b, rows, page, rows.max, rows.gap)) continue;
    float score[2][2];
    ScoreKeys(b, rows, page, score);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      visit(half, score[half][0]);
      visit(half, score[half][1]);
    }
  }
}

// Sums over the four lanes that share a row go to the warp's place.
__device__ void KeepSums(Shared& shared, PowerSums (&sums)[2]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    PowerSums s = sums[half];
    for (int offset = 1; offset < 4; offset *= 2) {
      s.s0 += __shfl_xor_sync(~0u, s.s0, offset);
      s.s1 += __shfl_xor_sync(~0u, s.s1, offset);
      s.s2 += __shfl_xor_sync(~0u, s.s2, offset);
    }
    if (lane % 4 == 0) shared.sums[threadIdx.x / 32][lane / 4 + 8 * half] = s;
  }
}

// A row's sum over the warps, always in the same order.
__device__ PowerSums SumOfWarps(const Shared& shared, int row) {
  PowerSums sums;
  for (int w = 0; w < kWarps; w++) {
    sums.s0 += shared.sums[w][row].s0;
    sums.s1 += shared.sums[w][row].s1;
    sums.s2 += shared.sums[w][row].s2;
  }
  return sums;
}

// First pass: each row's maximum. Its own keys' tell a warp which pages are too far.
template <int kDimSteps>
__device__ void FindMaxima(const Block& b, Shared& shared, ThreadRows<kDimSteps>& rows,
                           uint32_t* read) {
  float(&max)[2] = rows.max;
  max[0] = max[1] = -kInfinity;
  int scored = 0;
  for (int page = b.last_page; page >= b.first_page; page--) {
    if (IsTooFar(b, rows, page, max, rows.gap)) continue;
    if (threadIdx.x % 32 == 0 && b.bounded) atomicOr(read + page / 32, 1u << page % 32);
    float score[2][2];
    ScoreKeys(b, rows, page, score);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      max[i / 2] = fmaxf(max[i / 2], score[i / 2][i % 2]);
      scored += score[i / 2][i % 2] > -kInfinity;
    }
  }
  scored = __reduce_add_sync(~0u, scored);
  if (threadIdx.x % 32 == 0) atomicAdd(&shared.keys_scored, scored);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    for (int offset = 1; offset < 4; offset *= 2) {
      max[half] = fmaxf(max[half], __shfl_xor_sync(~0u, max[half], offset));
    }
    const int lane = threadIdx.x % 32;
    if (lane % 4 == 0) shared.sums[threadIdx.x / 32][lane / 4 + 8 * half].s0 = max[half];
  }
  __syncthreads();
  if (threadIdx.x < kTileRows) {
    float all = -kInfinity;
    for (int w = 0; w < kWarps; w++) all = fmaxf(all, shared.sums[w][threadIdx.x].s0);
    shared.row[threadIdx.x].max = all;
  }
  __syncthreads();
#pragma unroll
  for (int half = 0; half < 2; half++) {
    rows.max[half] = shared.row[threadIdx.x % 32 / 4 + 8 * half].max;
  }
}

// Second pass for entmax: the histogram, and from it the bracket that the search begins with.
template <int kDimSteps>
__device__ void FindBrackets(const Block& b, Shared& shared, const ThreadRows<kDimSteps>& rows) {
  ForScores(b, rows, [&](int half, float score) {
    const float y = score - rows.max[half];
    if (!(y > -1)) return;
    const int row = threadIdx.x % 32 / 4 + 8 * half;
    atomicAdd(&shared.histogram[row].count[entmax::BinOf(y)], 1);
  });
  __syncthreads();
  if (threadIdx.x < kTileRows) {
    RowState& row = shared.row[threadIdx.x];
    row.done |= row.max == -kInfinity;
    if (!row.done) {
      row.bracket = entmax::BracketFromHistogram(
          b.weight, shared.histogram[threadIdx.x],
          entmax::WidestBracket(b.weight, row.last_key - row.first_key + 1));
      row.gap = row.bracket.hi;
    }
  }
  __syncthreads();
}

// One pass for each step, until all rows of the tile have their gap.
template <int kDimSteps>
__device__ void FindGaps(const Block& b, Shared& shared, ThreadRows<kDimSteps>& rows) {
  while (true) {
    bool done = true;
    if (threadIdx.x < kTileRows) done = shared.row[threadIdx.x].done;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      rows.gap[half] = shared.row[threadIdx.x % 32 / 4 + 8 * half].gap;
    }
    if (__syncthreads_and(done)) return;
    PowerSums sums[2];
    ForScores(b, rows, [&](int half, float score) {
      entmax::Accumulate(b.weight, score - rows.max[half] + rows.gap[half], sums[half]);
    });
    KeepSums(shared, sums);
    __syncthreads();
    if (threadIdx.x < kTileRows && !shared.row[threadIdx.x].done) {
      RowState& row = shared.row[threadIdx.x];
      const PowerSums all = SumOfWarps(shared, threadIdx.x);
      row.sum = all.s0;
      row.done =
          !(fabsf(all.s0 - 1) > entmax::kResidualTolerance) || row.steps == entmax::kMaxSteps;
      if (!row.done) {
        const float next = all.s0 > 2 ? entmax::NormNewton(b.weight, all, row.gap)
                                      : entmax::NextGap(b.weight, all, row.gap, row.bracket);
        row.done = next == row.gap;
        row.steps += !row.done;
        row.gap = next;
      }
    }
    __syncthreads();
  }
}

// Second pass for softmax: the sum of exponentials.
template <int kDimSteps>
__device__ void SumExponentials(const Block& b, Shared& shared, const ThreadRows<kDimSteps>& rows) {
  PowerSums sums[2];
  ForScores(b, rows, [&](int half, float score) { sums[half].s0 += expf(score - rows.max[half]); });
  KeepSums(shared, sums);
  __syncthreads();
  if (threadIdx.x < kTileRows) shared.row[threadIdx.x].sum = SumOfWarps(shared, threadIdx.x).s0;
  __syncthreads();
}

// Last pass: weights of a page, then their share of the output. Values are read for keys with weight only. Thread i has
// elements i, i + kThreads, ... of the tile's [rows][head_dim] output.
template <int kDimSteps>
__device__ void AddValues(const Block& b, Shared& shared, const ThreadRows<kDimSteps>& rows,
                          uint32_t* attended) {
  const AttentionArgs& args = *b.args;
  const int dim_steps = args.head_dim / 16, head_dim = args.head_dim;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float out[kDimSteps] = {};
  for (int page = b.last_page; page >= b.first_page; page--) {
    if (IsTooFar(b, rows, page, rows.max, rows.gap)) continue;  // the same for all warps
    float score[2][2];
    ScoreKeys(b, rows, page, score);
    bool any = false;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = lane / 4 + 8 * half;
      int support = 0;
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const float y = score[half][i] - rows.max[half];
        const float z = y + rows.gap[half];
        const float p = b.softmax ? expf(y) : z > 0 ? entmax::Weight(b.weight, z) : 0;
        shared.weight[row][warp * kWarpKeys + 2 * (lane % 4) + i] = p > 0 ? p : 0;
        support += p > 0;
      }
      if (support > 0) atomicAdd(&shared.row[row].support, support);
      any |= support > 0;
    }
    if (__syncthreads_or(any)) {
      if (threadIdx.x == 0) attended[page / 32] |= 1u << page % 32;
      const int64_t block = int64_t{b.pages[page]} * args.num_kv_heads + b.kv_head;
      const bf16* values = args.values + block * kPageTokens * head_dim;
#pragma unroll
      for (int s = 0; s < kDimSteps; s++) {
        if (s >= dim_steps) continue;
        const int row = (s * kThreads + threadIdx.x) / head_dim;
        const int d = (s * kThreads + threadIdx.x) % head_dim;
        for (int k = 0; k < kPageTokens; k++) {
          const float p = shared.weight[row][k];
          if (p > 0) out[s] = fmaf(p, __bfloat162float(values[k * head_dim + d]), out[s]);
        }
      }
    }
    __syncthreads();
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
  const float width = b.softmax ? 1 : head.alpha - 1;
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
  AddTo(stats.keys_considered, keys);
  if (threadIdx.x == 0) AddTo(stats.keys_scored, shared.keys_scored);
  AddTo(stats.support, b.softmax ? keys : row.support);
  if (b.softmax) return;
  AddTo(stats.rows, 1);
  if (row.max > -kInfinity) CountEntmaxRow(row.support, row.steps, row.sum, stats);
}

// grid: (stretches of 64 positions, heads, slices).
template <int kDimSteps>
__global__ void __launch_bounds__(kThreads, kDimSteps > 8 ? 1 : 2)
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
  b.softmax = head.alpha == 1;
  b.bounded = !b.softmax && args.causal && head.alibi_slope > 0 && args.page_key_norms != nullptr;
  b.weight = entmax::MakeWeightFunction(b.softmax ? 2 : head.alpha);
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
    if (b.softmax) {
      SumExponentials(b, shared, rows);
    } else {
      FindBrackets(b, shared, rows);
      FindGaps(b, shared, rows);
    }
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
  AddTo(stats.blocks_considered, pages);
  AddTo(stats.blocks_scored, read_pages);
  AddTo(stats.blocks_attended, b.softmax ? pages : attended_pages);
  AddTo(stats.pages_considered, pages);
  AddTo(stats.pages_read, read_pages);
  // The keys once, whatever the passes: later ones find them in the cache.
  AddTo(stats.kv_bytes_read,
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

}  // namespace

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
    Launch<4>(args, stretches);
  } else if (args.head_dim <= 128) {
    Launch<8>(args, stretches);
  } else {
    Launch<16>(args, stretches);
  }
}

}  // namespace tauserve::cuda
