// Dense rows: softmax heads, and entmax rows whose candidates outgrew their lists. Scores straight from the pages, all
// values with a weight; split over pages and summed in a fixed order.
#ifndef TAUSERVE_KERNELS_CUDA_DECODE_DENSE_CUH_
#define TAUSERVE_KERNELS_CUDA_DECODE_DENSE_CUH_

#include "kernels/cuda/decode_block.cuh"
#include "kernels/cuda/decode_rows.cuh"

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

// A warp's weights of one page and the keys that have any.
struct PageWeights {
  float weight[kPageTokens][kDecodeColumns];
  float rescale[kDecodeColumns];
  uint8_t key[kPageTokens];
};
static_assert(sizeof(PageWeights) <= kWarpEntries * sizeof(Candidate));

// Scaled scores of a page's 64 keys, columns as in decode_tile.cuh; -infinity where a key is not visible.
template <int kHeadDim>
__device__ __forceinline__ void ScorePage(const AttentionArgs& args, const DecodeGroup& group,
                                          const Bf16Queries<kHeadDim>& queries,
                                          const Column (&columns)[2], int page, int page_id,
                                          float (&scores)[4][4]) {
  constexpr int kChunks = kHeadDim / 32;
  constexpr int kBlocks = kHeadDim <= 128 ? 2 : 1;  // of 16 keys, loaded together
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const __nv_bfloat16* keys =
      args.keys +
      (static_cast<int64_t>(page_id) * args.num_kv_heads + group.kv_head) * kPageTokens * kHeadDim;
#pragma unroll
  for (int first = 0; first < 4; first += kBlocks) {
    uint4 low[kBlocks][kChunks], high[kBlocks][kChunks];
#pragma unroll
    for (int m = 0; m < kBlocks; m++) {
      const __nv_bfloat16* row = keys + ((first + m) * 16 + g) * kHeadDim + t * 8;
#pragma unroll
      for (int i = 0; i < kChunks; i++) {
        low[m][i] = LoadStreaming(row + i * 32);
        high[m][i] = LoadStreaming(row + 8 * kHeadDim + i * 32);
      }
    }
#pragma unroll
    for (int m = 0; m < kBlocks; m++) {
      float c[4] = {0, 0, 0, 0};
      DotBf16<kHeadDim>(low[m], high[m], queries, c);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int key = page * kPageTokens + (first + m) * 16 + g + (i >> 1) * 8;
        const Column& column = columns[i & 1];
        const float s = column.mul * c[i] + column.slope * static_cast<float>(key - group.position);
        scores[first + m][i] = key >= group.first_key && key < group.end_key ? s : -kInfinity;
      }
    }
  }
}

// sum[column] += weight * value over the keys listed; a lane holds 8 consecutive d of every column.
template <int kHeadDim>
__device__ __forceinline__ void AddValues(const AttentionArgs& args, const DecodeGroup& group,
                                          const PageWeights& w, int page_id, int count,
                                          float (&sum)[kDecodeColumns][8]) {
  using Lanes = RowLanes<kHeadDim>;
  constexpr int kUnroll = kHeadDim <= 128 ? 8 : 4;
  const __nv_bfloat16* values =
      args.values +
      (static_cast<int64_t>(page_id) * args.num_kv_heads + group.kv_head) * kPageTokens * kHeadDim +
      Lanes::Rank() * 8;
  const bool two = group.num_columns > 4;
  for (int e = Lanes::Row(); e - Lanes::Row() < count; e += Lanes::kRows * kUnroll) {
    uint4 x[kUnroll];
    int key[kUnroll];
#pragma unroll
    for (int k = 0; k < kUnroll; k++) {
      const int at = e + k * Lanes::kRows;
      key[k] = at < count ? w.key[at] : -1;
      x[k] = make_uint4(0, 0, 0, 0);
      if (key[k] >= 0 && Lanes::Active()) x[k] = LoadStreaming(values + key[k] * kHeadDim);
    }
#pragma unroll
    for (int k = 0; k < kUnroll; k++) {
      if (key[k] < 0) continue;
      const float4 a = *reinterpret_cast<const float4*>(&w.weight[key[k]][0]);
      AddScaled(a.x, x[k], sum[0]);
      AddScaled(a.y, x[k], sum[1]);
      AddScaled(a.z, x[k], sum[2]);
      AddScaled(a.w, x[k], sum[3]);
      if (two) {
        const float4 b = *reinterpret_cast<const float4*>(&w.weight[key[k]][4]);
        AddScaled(b.x, x[k], sum[4]);
        AddScaled(b.y, x[k], sum[5]);
        AddScaled(b.z, x[k], sum[6]);
        AddScaled(b.w, x[k], sum[7]);
      }
    }
  }
}

// Writes the thread's weights of a page and lists the keys that have any. Returns their number.
__device__ __forceinline__ int ListWeights(PageWeights& w, const float (&weights)[4][4]) {
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
#pragma unroll
  for (int m = 0; m < 4; m++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      w.weight[m * 16 + g + (i >> 1) * 8][2 * t + (i & 1)] = weights[m][i];
    }
  }
  int count = 0;
#pragma unroll
  for (int m = 0; m < 4; m++) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const bool any = weights[m][2 * r] > 0 || weights[m][2 * r + 1] > 0;
      const unsigned lanes = __ballot_sync(kFullWarp, any);
      const unsigned rows = (lanes | lanes >> 1 | lanes >> 2 | lanes >> 3) & 0x11111111u;
      if (t == 0 && (rows >> lane & 1)) {
        w.key[count + __popc(rows & ((1u << lane) - 1))] = static_cast<uint8_t>(m * 16 + r * 8 + g);
      }
      count += __popc(rows);
    }
  }
  __syncwarp();
  return count;
}

// Sums over the block's warps, each scaled by scale[warp][column], to out[column][d].
template <int kHeadDim>
__device__ __forceinline__ void ReduceValues(const float (&sum)[kDecodeColumns][8], int columns,
                                             const float (*scale)[kDecodeColumns], float* buffer,
                                             float* out) {
  using Lanes = RowLanes<kHeadDim>;
  const int warp = threadIdx.x >> 5;
#pragma unroll
  for (int c = 0; c < kDecodeColumns; c++) {
    if (c >= columns) continue;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      float x = sum[c][i];
#pragma unroll
      for (int o = Lanes::kLanes; o < 32; o <<= 1) x += __shfl_xor_sync(kFullWarp, x, o);
      if (Lanes::Row() == 0 && Lanes::Active()) {
        buffer[(warp * kDecodeColumns + c) * kHeadDim + Lanes::Rank() * 8 + i] = x;
      }
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < columns * kHeadDim; i += kThreads) {
    const int c = i / kHeadDim;
    float x = 0;
    for (int w = 0; w < kWarps; w++) {
      const float part = buffer[(w * kDecodeColumns + c) * kHeadDim + i % kHeadDim];
      if (scale == nullptr) {
        x += part;
      } else if (scale[w][c] > 0) {
        x += scale[w][c] * part;
      }
    }
    __stcg(out + i, x);
  }
}

// A piece of a softmax group: maximum, sum and weighted values to its slot.
template <int kHeadDim>
__device__ __noinline__ void SoftmaxPiece(const Params& p, const DecodePiece& piece, Block& block) {
  const AttentionArgs& args = p.args;
  BlockShared& shared = block.shared;
  const DecodeGroup& group = shared.group;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, t = lane & 3, g = lane >> 2;
  PageWeights& weights = *reinterpret_cast<PageWeights*>(block.lists + warp * kWarpEntries);
  Column columns[2] = {MakeColumn(args, group, 2 * t), MakeColumn(args, group, 2 * t + 1)};
  Bf16Queries<kHeadDim> queries;
  queries.Load(args, group);
  float max[2] = {-kInfinity, -kInfinity}, total[2] = {0, 0};
  float sum[kDecodeColumns][8] = {};
  const int32_t* table = args.page_table + group.page_table;
  int page_id =
      piece.first_page + warp < piece.end_page ? __ldg(table + piece.first_page + warp) : 0;
  int next_id = 0;
#pragma unroll 1
  for (int page = piece.first_page + warp; page < piece.end_page;
       page += kWarps, page_id = next_id) {
    PrefetchPage<kHeadDim>(args.values, args, group, page_id);
    if (page + kWarps < piece.end_page) {
      next_id = __ldg(table + page + kWarps);
      PrefetchPage<kHeadDim>(args.keys, args, group, next_id);
    }
    float s[4][4];
    ScorePage<kHeadDim>(args, group, queries, columns, page, page_id, s);
    bool moved = false;
#pragma unroll
    for (int c = 0; c < 2; c++) {
      float most = max[c];
#pragma unroll
      for (int m = 0; m < 4; m++) most = fmaxf(most, fmaxf(s[m][c], s[m][c + 2]));
      most = LaneGroup<8>::Max(most);
      const float rescale = most == max[c] ? 1.0f : exp2f(max[c] - most);
      moved |= most != max[c];
      max[c] = most;
      total[c] *= rescale;
#pragma unroll
      for (int m = 0; m < 4; m++) {
        s[m][c] = exp2f(s[m][c] - most);
        s[m][c + 2] = exp2f(s[m][c + 2] - most);
        total[c] += s[m][c] + s[m][c + 2];
      }
      if (g == 0) weights.rescale[2 * t + c] = rescale;
    }
    const int count = ListWeights(weights, s);
    if (__any_sync(kFullWarp, moved)) {
#pragma unroll
      for (int c = 0; c < kDecodeColumns; c++) {
        const float rescale = weights.rescale[c];
#pragma unroll
        for (int i = 0; i < 8; i++) sum[c][i] *= rescale;
      }
    }
    AddValues<kHeadDim>(args, group, weights, page_id, count, sum);
    __syncwarp();
  }
#pragma unroll
  for (int c = 0; c < 2; c++) {
    total[c] = LaneGroup<8>::Sum(total[c]);
    if (g == 0) {
      shared.softmax[warp][0][2 * t + c] = max[c];
      shared.softmax[warp][1][2 * t + c] = total[c];
    }
  }
  __syncthreads();
  Slot& slot = p.slots[group.first_slot + piece.index];
  if (threadIdx.x < kDecodeColumns) {
    const int c = threadIdx.x;
    float most = -kInfinity, all = 0;
    for (int w = 0; w < kWarps; w++) most = fmaxf(most, shared.softmax[w][0][c]);
    for (int w = 0; w < kWarps; w++) {
      const float m = shared.softmax[w][0][c];
      const float scale = m == -kInfinity ? 0.0f : exp2f(m - most);
      shared.floor[w][c] = scale;
      all += scale * shared.softmax[w][1][c];
    }
    __stcg(&slot.floor[c], most);
    __stcg(reinterpret_cast<float*>(&slot.count[c]), all);
  }
  __syncthreads();
  ReduceValues<kHeadDim>(sum, group.num_columns, shared.floor,
                         reinterpret_cast<float*>(block.stages),
                         reinterpret_cast<float*>(slot.entries));
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
