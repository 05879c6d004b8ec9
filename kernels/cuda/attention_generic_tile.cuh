// The generic kernel's tiles: what its blocks and threads hold of a tile of query rows, and the scores of a page. See
// attention_generic.h.
#ifndef TAUSERVE_KERNELS_CUDA_ATTENTION_GENERIC_TILE_CUH_
#define TAUSERVE_KERNELS_CUDA_ATTENTION_GENERIC_TILE_CUH_

#include "kernels/cuda/attention_args.h"
#include "kernels/entmax/threshold.h"

namespace tauserve::cuda::generic {

using bf16 = __nv_bfloat16;
using entmax::PowerSums;
using entmax::WeightFunction;

// A block attends with one head, for the rows of a slice whose positions lie in one stretch of 64: the statistics'
// block. It takes them in tiles of 16, the rows of a tensor core's product; each of its 8 warps scores 8 keys of a
// page.
constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kTileRows = 16;
constexpr int kWarpKeys = kPageTokens / kWarps;
constexpr float kInfinity = __builtin_huge_valf();

struct RowState {
  float max;     // of the scaled scores
  float gap;     // u of entmax/weight.h
  float sum;     // of the weights at `gap`
  float factor;  // dot product -> scaled score: (alpha - 1) * scale * query_scale
  float slope;   // likewise, a token of distance
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
  alignas(8) uint8_t has_weight[kTileRows][kWarps];  // bit a key
  int keys_scored;
};

// What all of the block's threads know.
struct Block {
  const AttentionArgs* args;
  WeightFunction weight;
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

__device__ inline void Multiply(const uint32_t (&a)[4], uint2 b, float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
}

__device__ inline float SquaresOf(uint32_t two) {
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

// Pages whose keys are on the way together, as many as registers allow.
template <int kDimSteps>
inline constexpr int kPagesAtOnce = 16 / kDimSteps;

// What a thread scores of some neighbouring pages, the newest first: its two rows with two neighbouring keys of each.
template <int kDimSteps>
struct PageScores {
  bool live[kPagesAtOnce<
      kDimSteps>];  // there is such a page, and it may have weight; the same in a warp
  float score[kPagesAtOnce<kDimSteps>][2]
             [2];  // [page][row][key]; -infinity where not visible or live
};

// Whether the distance bias leaves no row of the tile a key of the page with weight: |q . k| <= |q| |k|, `norm` the
// largest |k|. The same for all lanes of a warp. `max`: of each row, or less.
template <int kDimSteps>
__device__ bool IsTooFar(const ThreadRows<kDimSteps>& rows, int page, float norm,
                         const float (&max)[2]) {
  bool far = true;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int distance = rows.position[half] - ((page + 1) * kPageTokens - 1);
    const float bias = rows.slope[half] * static_cast<float>(min(0, -distance));
    const float highest = fmaf(rows.reach[half], norm, bias);
    // A score's own rounding is far below the margin.
    const bool none = highest + 1e-4f * (1 + fabsf(bias)) < max[half] - rows.gap[half];
    far &= none || rows.first_key[half] > rows.last_key[half];
  }
  return __all_sync(~0u, far);
}

// Scaled scores of the thread's rows with its keys of a page.
template <int kDimSteps>
__device__ void ScoreKeys(const ThreadRows<kDimSteps>& rows, int dim_steps, int page,
                          const uint2 (&keys)[kDimSteps], float (&score)[2][2]) {
  float c[4] = {};
#pragma unroll
  for (int s = 0; s < kDimSteps; s++) {
    if (s < dim_steps) Multiply(rows.q[s], keys[s], c);
  }
  const int first = page * kPageTokens + threadIdx.x / 32 * kWarpKeys + 2 * (threadIdx.x % 4);
#pragma unroll
  for (int half = 0; half < 2; half++) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int j = first + i;
      const float bias = rows.slope[half] * static_cast<float>(j - rows.position[half]);
      const bool visible = j >= rows.first_key[half] && j <= rows.last_key[half];
      score[half][i] = visible ? fmaf(rows.factor[half], c[2 * half + i], bias) : -kInfinity;
    }
  }
}

// Scores of pages newest, newest - 1, ..., without those before first_page and those without weight. Whether any is
// left.
template <int kDimSteps>
__device__ bool ScorePages(const Block& b, const ThreadRows<kDimSteps>& rows, int newest,
                           const float (&row_max)[2], PageScores<kDimSteps>& scores) {
  constexpr int kPages = kPagesAtOnce<kDimSteps>;
  const AttentionArgs& args = *b.args;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int dim_steps = args.head_dim / 16;
  const int place = warp * kWarpKeys + lane / 4;
  int64_t block[kPages];
  float norm[kPages];
#pragma unroll
  for (int p = 0; p < kPages; p++) {
    const int page = max(newest - p, b.first_page);
    block[p] = int64_t{b.pages[page]} * args.num_kv_heads + b.kv_head;
    if (b.bounded) norm[p] = args.page_key_norms[block[p]];
  }
  uint2 keys[kPages][kDimSteps];
  bool any = false;
#pragma unroll
  for (int p = 0; p < kPages; p++) {
    scores.live[p] = newest - p >= b.first_page;
    if (b.bounded && scores.live[p]) scores.live[p] = !IsTooFar(rows, newest - p, norm[p], row_max);
    any |= scores.live[p];
    if (!scores.live[p]) continue;
    const bf16* key = args.keys + (block[p] * kPageTokens + place) * args.head_dim + 4 * (lane % 4);
#pragma unroll
    for (int s = 0; s < kDimSteps; s++) {
      if (s < dim_steps) keys[p][s] = *reinterpret_cast<const uint2*>(key + 16 * s);
    }
  }
  if (!any) return false;
#pragma unroll
  for (int p = 0; p < kPages; p++) {
    if (scores.live[p]) {
      ScoreKeys(rows, dim_steps, newest - p, keys[p], scores.score[p]);
    } else {
      for (int i = 0; i < 4; i++) scores.score[p][i / 2][i % 2] = -kInfinity;
    }
  }
  return true;
}

// visit(half, score) for every score of the thread's rows, the newest pages first. Pages without weight are left out.
template <int kDimSteps, typename Visit>
__device__ void ForScores(const Block& b, const ThreadRows<kDimSteps>& rows, const Visit& visit) {
  constexpr int kPages = kPagesAtOnce<kDimSteps>;
  for (int page = b.last_page; page >= b.first_page; page -= kPages) {
    PageScores<kDimSteps> scores;
    if (!ScorePages(b, rows, page, rows.max, scores)) continue;
#pragma unroll
    for (int i = 0; i < 4 * kPages; i++) visit(i / 2 % 2, scores.score[i / 4][i / 2 % 2][i % 2]);
  }
}

}  // namespace tauserve::cuda::generic

#endif  // TAUSERVE_KERNELS_CUDA_ATTENTION_GENERIC_TILE_CUH_
