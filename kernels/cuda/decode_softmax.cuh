// Softmax groups: keys and values through shared memory, both products on tensor cores. Pieces keep their maximum, sum and
// weighted values; the last one to be done merges them.
#ifndef TAUSERVE_KERNELS_CUDA_DECODE_SOFTMAX_CUH_
#define TAUSERVE_KERNELS_CUDA_DECODE_SOFTMAX_CUH_

#include "kernels/cuda/decode_values.cuh"

namespace tauserve::cuda::decode {

// A piece of a softmax group: maximum, sum and weighted values to its slot.
template <int kHeadDim>
__device__ __noinline__ void SoftmaxPiece(const Params& p, const DecodePiece& piece) {
  const AttentionArgs& args = p.args;
  BlockShared& shared = Shared();
  const DecodeGroup& group = piece.group;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, t = lane & 3, g = lane >> 2;
  RowStream<kHeadDim, 2> stream(p, group, args.keys, args.values, piece.first_page, piece.end_page);
  Bf16Queries<kHeadDim> queries;
  queries.Load(args, group);
  stream.Fill();
  const Column column = MakeColumn(args, group, g);  // the thread's row of the products
  float max = -kInfinity, total = 0;
  WeightedValues<kHeadDim> values;
#pragma unroll 1
  while (stream.Next()) {
    const int first = stream.first_key();
    float s[2][2];  // of head g: keys 8 h + 2 t and the next
    ScoreRows<kHeadDim>(stream.Wait(), queries, s);
    stream.Release();
    const bool edge = first < group.first_key || first + kRowTile > group.end_key;
    float most = max;
#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
      for (int k = 0; k < 2; k++) {
        const int key = first + 8 * h + 2 * t + k;
        s[h][k] = column.mul * s[h][k] + column.slope * static_cast<float>(key - group.position);
        if (edge && !(key >= group.first_key && key < group.end_key)) s[h][k] = -kInfinity;
        most = fmaxf(most, s[h][k]);
      }
    }
    most = fmaxf(most, __shfl_xor_sync(kFullWarp, most, 1));
    most = fmaxf(most, __shfl_xor_sync(kFullWarp, most, 2));
    if (__any_sync(kFullWarp, most != max)) {
      const float rescale = most == max ? 1.0f : exp2f(max - most);
      total *= rescale;
      values.Scale(rescale);
      max = most;
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
      for (int k = 0; k < 2; k++) {
        s[h][k] = s[h][k] == -kInfinity ? 0.0f : exp2f(s[h][k] - max);
        total += s[h][k];
      }
    }
    values.Add(stream.Wait(), s, first, edge, group);
    stream.Release();
    stream.Fill();
  }
  stream.Finish();
  total += __shfl_xor_sync(kFullWarp, total, 1);
  total += __shfl_xor_sync(kFullWarp, total, 2);
  if (t == 0) shared.softmax[warp][g] = {max, total};
  __syncthreads();
  Slot& slot = p.slots[group.first_slot + piece.index];
  float most = -kInfinity, all = 0;
#pragma unroll
  for (int w = 0; w < kWarps; w++) most = fmaxf(most, shared.softmax[w][g].x);
#pragma unroll
  for (int w = 0; w < kWarps; w++) {
    const float2 x = shared.softmax[w][g];
    if (x.x > -kInfinity) all += exp2f(x.x - most) * x.y;
  }
  if (warp == 0 && t == 0) {
    __stcg(&slot.floor[g], most);
    __stcg(&slot.sum[g], all);
  }
  values.Scale(max > -kInfinity ? exp2f(max - most) : 0.0f);
  values.Reduce(group.num_columns, reinterpret_cast<float*>(slot.entries));
}

template <int kHeadDim>
__device__ __noinline__ void MergeSoftmax(const Params& p) {
  const AttentionArgs& args = p.args;
  const DecodeGroup& group = Shared().piece.group;
  const Slot* slots = p.slots + group.first_slot;
  float(*shares)[kMaxDecodeBlocks + 1] =
      reinterpret_cast<float(*)[kMaxDecodeBlocks + 1]>(Shared().prefix);
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  if (warp < group.num_columns) {  // of the pieces, in the column's sum
    float most = -kInfinity, total = 0;
#pragma unroll 1
    for (int i = lane; i < group.num_pieces; i += 32) {
      shares[warp][i] = __ldcg(&slots[i].floor[warp]);
      most = fmaxf(most, shares[warp][i]);
    }
    most = LaneGroup<32>::Max(most);
#pragma unroll 1
    for (int i = lane; i < group.num_pieces; i += 32) {
      const float scale = exp2f(shares[warp][i] - most);
      total += scale * __ldcg(&slots[i].sum[warp]);
      shares[warp][i] = scale;
    }
    total = LaneGroup<32>::Sum(total);
#pragma unroll 1
    for (int i = lane; i < group.num_pieces; i += 32) shares[warp][i] /= total;
  }
  __syncthreads();
#pragma unroll 1
  for (int i = threadIdx.x; i < group.num_columns * (kHeadDim / 2); i += kThreads) {
    const int c = i / (kHeadDim / 2), d = i % (kHeadDim / 2);
    float2 sum{0, 0};
#pragma unroll 8
    for (int j = 0; j < group.num_pieces; j++) {
      const float share = shares[c][j];
      const float2 part = __ldcg(reinterpret_cast<const float2*>(slots[j].entries) + i);
      sum.x += share * part.x;
      sum.y += share * part.y;
    }
    reinterpret_cast<__nv_bfloat162*>(args.out + group.row * args.out_stride +
                                      static_cast<int64_t>(group.head[c]) * kHeadDim)[d] =
        __float22bfloat162_rn(sum);
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

#endif  // TAUSERVE_KERNELS_CUDA_DECODE_SOFTMAX_CUH_
