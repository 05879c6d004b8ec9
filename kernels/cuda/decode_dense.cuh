// Dense rows: softmax heads, and entmax rows whose candidates outgrew their lists. Scores straight from the pages, all
// values with a weight; split over pages and summed in a fixed order.
#ifndef TAUSERVE_KERNELS_CUDA_DECODE_DENSE_CUH_
#define TAUSERVE_KERNELS_CUDA_DECODE_DENSE_CUH_

#include "kernels/cuda/decode_block.cuh"
#include "kernels/cuda/decode_merge.cuh"

namespace tauserve::cuda::decode {

// Has a page of keys or values brought to the L2 cache.
template <int kHeadDim>
__device__ __forceinline__ void PrefetchPage(const __nv_bfloat16* pool, const AttentionArgs& args,
                                             const DecodeGroup& group, int page_id) {
  constexpr int kBytes = kPageTokens * kHeadDim * 2;
  Prefetch(reinterpret_cast<const char*>(pool) +
               (static_cast<int64_t>(page_id) * args.num_kv_heads + group.kv_head) * kBytes,
           kBytes);
}

// Both products by tensor cores: queries are rows, so a thread (g = lane / 4, t = lane % 4) holds column g of keys
// 8 j + 2 t and 8 j + 2 t + 1 of a page, j < 8. Rows 8 to 15 of the mma are not used.
using PageValues = float[8][2];

__device__ __forceinline__ void MmaRows(float (&c)[2], uint32_t a0, uint32_t a2, uint32_t b0,
                                        uint32_t b1) {
  float unused0, unused1;
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%5}, {%7,%8}, "
      "{%0,%1,%9,%9};"
      : "+f"(c[0]), "+f"(c[1]), "=f"(unused0), "=f"(unused1)
      : "r"(a0), "r"(0), "r"(a2), "r"(b0), "r"(b1), "f"(0.0f));
  static_cast<void>(unused0);
  static_cast<void>(unused1);
}

// Scaled scores of a page, -infinity where a key is not visible.
template <int kHeadDim>
__device__ __forceinline__ void ScorePage(const AttentionArgs& args, const DecodeGroup& group,
                                          const Bf16Queries<kHeadDim>& queries, Column column,
                                          int page, int page_id, PageValues& scores) {
  constexpr int kChunks = kHeadDim / 32;
  constexpr int kTiles = kHeadDim <= 128 ? 4 : 1;  // of 8 keys, loaded together
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const __nv_bfloat16* keys =
      args.keys +
      (static_cast<int64_t>(page_id) * args.num_kv_heads + group.kv_head) * kPageTokens * kHeadDim +
      g * kHeadDim + t * 8;
#pragma unroll
  for (int first = 0; first < 8; first += kTiles) {
    uint4 k[kTiles][kChunks];
#pragma unroll
    for (int j = 0; j < kTiles; j++) {
#pragma unroll
      for (int i = 0; i < kChunks; i++) {
        k[j][i] = LoadStreaming(keys + (first + j) * 8 * kHeadDim + i * 32);
      }
    }
#pragma unroll
    for (int j = 0; j < kTiles; j++) {
      float c[2] = {0, 0};
#pragma unroll
      for (int i = 0; i < kChunks; i++) {
        MmaRows(c, queries.b[4 * i], queries.b[4 * i + 1], k[j][i].x, k[j][i].y);
        MmaRows(c, queries.b[4 * i + 2], queries.b[4 * i + 3], k[j][i].z, k[j][i].w);
      }
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const int key = page * kPageTokens + (first + j) * 8 + 2 * t + r;
        const float s = column.mul * c[r] + column.slope * static_cast<float>(key - group.position);
        scores[first + j][r] = key >= group.first_key && key < group.end_key ? s : -kInfinity;
      }
    }
  }
}

// Weighted sums of values: the thread holds column g, d = 64 e + 8 (2 t + r) + i at [8 e + i][r].
template <int kHeadDim>
struct ValueSums {
  static constexpr int kSpans = (kHeadDim + 63) / 64;
  float sum[8 * kSpans][2] = {};
  float total = 0;  // of the weights as they were rounded, the thread's keys

  __device__ __forceinline__ void Scale(float by) {
#pragma unroll
    for (int i = 0; i < 8 * kSpans; i++) {
      sum[i][0] *= by;
      sum[i][1] *= by;
    }
    total *= by;
  }

  // Adds a page. Weights are rounded to bf16; keys without weight in any column are not read. Returns their number.
  __device__ __forceinline__ int Add(const AttentionArgs& args, const DecodeGroup& group,
                                     int page_id, const PageValues& weights) {
    constexpr int kBlocks = kHeadDim <= 128 ? 2 : 1;     // of 16 keys, loaded together
    constexpr int kTogether = kSpans <= 2 ? kSpans : 2;  // spans loaded together
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const unsigned columns = 0x11111111u << t;
    const __nv_bfloat16* values =
        args.values +
        (static_cast<int64_t>(page_id) * args.num_kv_heads + group.kv_head) * kPageTokens *
            kHeadDim +
        2 * t * kHeadDim + g * 8;
    int rows = 0;
#pragma unroll
    for (int first = 0; first < 4; first += kBlocks) {
      uint32_t p[kBlocks][2];
      bool needed[kBlocks][4];
#pragma unroll
      for (int i = 0; i < 4 * kBlocks; i++) {  // keys 2 t, 2 t + 1, 2 t + 8, 2 t + 9 of each block
        const int m = i / 4, h = i / 2 % 2, r = i % 2;
        const float* w = weights[2 * (first + m) + h];
        unsigned any = __ballot_sync(kFullWarp, w[r] > 0);
        needed[m][i % 4] = any & columns;
        any |= any >> 16;
        any |= any >> 8;
        rows += __popc((any | any >> 4) & 0xfu);
        if (r == 0) {
          const __nv_bfloat162 pair = __floats2bfloat162_rn(w[0], w[1]);
          p[m][h] = *reinterpret_cast<const uint32_t*>(&pair);
          total += Low(p[m][h]) + High(p[m][h]);
        }
      }
#pragma unroll
      for (int from = 0; from < kSpans; from += kTogether) {
        uint4 v[kBlocks][4][kTogether];
#pragma unroll
        for (int i = 0; i < 4 * kBlocks * kTogether; i++) {
          const int m = i / kTogether / 4, row = i / kTogether % 4, e = i % kTogether;
          const int d = (from + e) * 64;
          v[m][row][e] = make_uint4(0, 0, 0, 0);
          if (needed[m][row] && (kHeadDim % 64 == 0 || d + g * 8 < kHeadDim)) {
            v[m][row][e] =
                LoadStreaming(values + ((first + m) * 16 + row / 2 * 8 + row % 2) * kHeadDim + d);
          }
        }
#pragma unroll
        for (int m = 0; m < kBlocks; m++) {
          if (!__any_sync(kFullWarp, p[m][0] | p[m][1])) continue;
#pragma unroll
          for (int e = 0; e < kTogether; e++) {
            const int at = (from + e) * 8;
            Multiply(at, p[m], v[m][0][e].x, v[m][1][e].x, v[m][2][e].x, v[m][3][e].x);
            Multiply(at + 2, p[m], v[m][0][e].y, v[m][1][e].y, v[m][2][e].y, v[m][3][e].y);
            Multiply(at + 4, p[m], v[m][0][e].z, v[m][1][e].z, v[m][2][e].z, v[m][3][e].z);
            Multiply(at + 6, p[m], v[m][0][e].w, v[m][1][e].w, v[m][2][e].w, v[m][3][e].w);
          }
        }
      }
    }
    return rows;
  }

 private:
  // Two neighbouring d of four keys.
  __device__ __forceinline__ void Multiply(int at, const uint32_t (&p)[2], uint32_t v0, uint32_t v1,
                                           uint32_t v2, uint32_t v3) {
    MmaRows(sum[at], p[0], p[1], __byte_perm(v0, v1, 0x5410), __byte_perm(v2, v3, 0x5410));
    MmaRows(sum[at + 1], p[0], p[1], __byte_perm(v0, v1, 0x7632), __byte_perm(v2, v3, 0x7632));
  }
};

// Sums over the block's warps, each scaled by scale[warp][column], to out[column][d], and of the totals to
// out_total[column].
template <int kHeadDim>
__device__ __forceinline__ void ReduceValues(const ValueSums<kHeadDim>& values, int columns,
                                             BlockShared& shared,
                                             const float (*scale)[kDecodeColumns], float* buffer,
                                             float* out, float* out_total) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  float total = values.total;
  total += __shfl_xor_sync(kFullWarp, total, 1);
  total += __shfl_xor_sync(kFullWarp, total, 2);
  if (t == 0) shared.total[warp][g] = total;
  if (g < columns) {
#pragma unroll
    for (int i = 0; i < 8 * ValueSums<kHeadDim>::kSpans; i++) {
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const int d = i / 8 * 64 + (2 * t + r) * 8 + i % 8;
        if (d < kHeadDim) buffer[(warp * kDecodeColumns + g) * kHeadDim + d] = values.sum[i][r];
      }
    }
  }
  __syncthreads();
#pragma unroll 1
  for (int i = threadIdx.x; i < columns * (kHeadDim + 1); i += kThreads) {
    const bool is_total = i >= columns * kHeadDim;
    const int c = is_total ? i - columns * kHeadDim : i / kHeadDim;
    float x = 0;
    for (int w = 0; w < kWarps; w++) {
      const float part = is_total ? shared.total[w][c]
                                  : buffer[(w * kDecodeColumns + c) * kHeadDim + i % kHeadDim];
      const float by = scale == nullptr ? 1.0f : scale[w][c];
      if (by > 0) x += by * part;
    }
    __stcg(is_total ? out_total + c : out + i, x);
  }
}

// A piece of a softmax group: maximum, sum and weighted values to its slot.
template <int kHeadDim>
__device__ __noinline__ void SoftmaxPiece(const Params& p, const DecodePiece& piece, Block& block) {
  const AttentionArgs& args = p.args;
  BlockShared& shared = block.shared;
  const DecodeGroup& group = shared.group;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2;
  const int32_t* table = args.page_table + group.page_table;
  int page = piece.first_page + warp;
  int page_id = page < piece.end_page ? __ldg(table + page) : 0;
  Bf16Queries<kHeadDim> queries;
  queries.Load(args, group);
  const Column column = MakeColumn(args, group, g);
  const bool live = g < group.num_columns;
  ValueSums<kHeadDim> values;
  float max = -kInfinity;
#pragma unroll 1
  while (page < piece.end_page) {
    PrefetchPage<kHeadDim>(args.values, args, group, page_id);
    int next_id = 0;
    if (page + kWarps < piece.end_page) {
      next_id = __ldg(table + page + kWarps);
      PrefetchPage<kHeadDim>(args.keys, args, group, next_id);
    }
    PageValues s;
    ScorePage<kHeadDim>(args, group, queries, column, page, page_id, s);
    float most = max;
#pragma unroll
    for (int j = 0; j < 8; j++) most = fmaxf(most, fmaxf(s[j][0], s[j][1]));
    most = fmaxf(most, __shfl_xor_sync(kFullWarp, most, 1));
    most = fmaxf(most, __shfl_xor_sync(kFullWarp, most, 2));
    if (__any_sync(kFullWarp, most > max)) values.Scale(exp2f(max - most));
    max = most;
#pragma unroll
    for (int j = 0; j < 8; j++) {
      s[j][0] = live ? exp2f(s[j][0] - max) : 0.0f;
      s[j][1] = live ? exp2f(s[j][1] - max) : 0.0f;
    }
    values.Add(args, group, page_id, s);
    page += kWarps;
    page_id = next_id;
  }
  if ((lane & 3) == 0) shared.floor[warp][g] = max;
  __syncthreads();
  Slot& slot = p.slots[group.first_slot + piece.index];
  float most = -kInfinity;
#pragma unroll
  for (int w = 0; w < kWarps; w++) most = fmaxf(most, shared.floor[w][g]);
  if ((lane & 3) == 0) shared.scale[warp][g] = max == -kInfinity ? 0.0f : exp2f(max - most);
  if (threadIdx.x < 32 && (lane & 3) == 0) __stcg(&slot.floor[g], most);
  ReduceValues<kHeadDim>(
      values, group.num_columns, shared, shared.scale, reinterpret_cast<float*>(block.stages),
      reinterpret_cast<float*>(slot.entries), reinterpret_cast<float*>(slot.count));
}

template <int kHeadDim>
__device__ __noinline__ void MergeSoftmax(const Params& p, Block& block) {
  const AttentionArgs& args = p.args;
  const DecodeGroup& group = block.shared.group;
  const Slot* slots = p.slots + group.first_slot;
  for (int i = threadIdx.x; i < group.num_columns * kHeadDim; i += kThreads) {
    const int c = i / kHeadDim, d = i % kHeadDim;
    float most = -kInfinity;
    for (int j = 0; j < group.num_pieces; j++) most = fmaxf(most, __ldcg(&slots[j].floor[c]));
    float sum = 0, total = 0;
#pragma unroll 4
    for (int j = 0; j < group.num_pieces; j++) {
      const float m = __ldcg(&slots[j].floor[c]);
      const float scale = m == -kInfinity ? 0.0f : exp2f(m - most);
      total += scale * __ldcg(reinterpret_cast<const float*>(&slots[j].count[c]));
      sum += scale * __ldcg(reinterpret_cast<const float*>(slots[j].entries) + i);
    }
    args.out[group.row * args.out_stride + static_cast<int64_t>(group.head[c]) * kHeadDim + d] =
        __float2bfloat16(sum / total);
  }
  if (args.stats == nullptr || threadIdx.x != 0) return;
  AttentionStats* stats = args.stats + group.slice;
  const int64_t columns = group.num_columns, pages = NumPages(group);
  const int64_t keys = columns * (group.end_key - group.first_key);
  AddTo(&stats->keys_considered, keys);
  AddTo(&stats->keys_scored, keys);
  AddTo(&stats->support, keys);
  AddTo(&stats->blocks_considered, columns * pages);
  AddTo(&stats->blocks_scored, columns * pages);
  AddTo(&stats->blocks_attended, columns * pages);
  AddTo(&stats->pages_considered, pages);
  AddTo(&stats->pages_read, pages);
  AddTo(&stats->kv_bytes_read, pages * kPageTokens * 4 * kHeadDim);
}

}  // namespace tauserve::cuda::decode

#endif  // TAUSERVE_KERNELS_CUDA_DECODE_DENSE_CUH_
