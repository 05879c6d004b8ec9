// The output of a warp's 16 query rows from their candidates: weights, then a sum over the values' rows, read from the
// cache by quads (the four threads that share two query rows).
#ifndef TAUSERVE_KERNELS_CUDA_VALUE_GATHER_H_
#define TAUSERVE_KERNELS_CUDA_VALUE_GATHER_H_

#include "kernels/cuda/candidate_lists.h"

namespace tauserve::cuda {

// The key of a lane's accumulator `place` (hopper.h) of a group: 8 keys a group, 16 groups a tile.
__device__ __forceinline__ int KeyOfEntry(uint32_t group, uint32_t place, int lane) {
  return static_cast<int>(group * 8 + (place & 1)) + (lane & 3) * 2;
}

// Rewrites a thread's entries from (score over the floor, tile) to (weight, row of the value pool), dropping what the
// threshold `shift` above the floor leaves without weight; returns the sum of weights. `bitmap` takes the pages.
template <typename Lists>
__device__ __forceinline__ float MakeWeights(Lists& lists, int h, const entmax::WeightFunction& w,
                                             float inverse_width, float shift,
                                             const PrefillParams& p, const int32_t* pages,
                                             int kv_head, int lane, uint32_t* bitmap,
                                             int bitmap_bits) {
  const uint32_t bytes = lists.BytesOf(h);
  const uint32_t longest = __reduce_max_sync(~0u, bytes);
  const int step = h == 0 ? Lists::kEntryStep : -Lists::kEntryStep;
  const uint32_t base = h == 0 ? lists.bottom : lists.Top();
  lists.next[h] = base;
  float sum = 0;
#pragma unroll 4
  for (uint32_t e = 0; e < longest; e += Lists::kEntryStep) {
    if (e >= bytes) continue;
    const uint2 entry = LoadEntry(h == 0 ? base + e : base - e);
    const float z = (__uint_as_float(entry.x) - shift) * inverse_width;
    if (!(z > 0)) continue;
    const float weight = entmax::Weight(w, z);
    const int key = KeyOfEntry(entry.y, entry.x & kPlaceBits, lane);
    const int page = key / kPageTokens;
    const uint32_t row =
        (static_cast<uint32_t>(__ldg(pages + page)) * p.args.num_kv_heads + kv_head) * kPageTokens +
        key % kPageTokens;
    if (bitmap) atomicOr(&bitmap[page % bitmap_bits / 32], 1u << page % 32);
    sum += weight;
    StoreEntry(lists.next[h], __float_as_uint(weight), row);
    lists.next[h] += step;
  }
  return QuadSum(sum);
}

// Adds weight x value over the entries of row `h` in the quad's four lists, in the order of their threads. out[8i + c]
// is column 32i + 8(lane % 4) + c.
template <int kDim, int kUnroll, typename Lists>
__device__ __forceinline__ void GatherValues(const Lists& lists, int h, const __nv_bfloat16* values,
                                             int lane, float (&out)[kDim / 4]) {
  const int count = lists.Count(h);
  int counts[4];
#pragma unroll
  for (int o = 0; o < 4; o++) counts[o] = __shfl_sync(~0u, count, (lane & 28) + o);
  const int total = counts[0] + counts[1] + counts[2] + counts[3];
  const int longest = __reduce_max_sync(~0u, total);
  const uint32_t base = (h == 0 ? lists.bottom : lists.Top()) - (lane & 3) * 8;
#pragma unroll
  for (int i = 0; i < kDim / 4; i++) out[i] = 0;
  const __nv_bfloat16* column = values + (lane & 3) * 8;
  for (int first = 0; first < longest; first += kUnroll) {
    float weight[kUnroll];
    uint4 x[kUnroll][kDim / 32];
#pragma unroll
    for (int u = 0; u < kUnroll; u++) {
      int e = first + u;
      const bool valid = e < total;
      uint32_t owner = 0;
#pragma unroll
      for (int o = 0; o < 3; o++) {
        if (owner == static_cast<uint32_t>(o) && e >= counts[o]) {
          e -= counts[o];
          owner = o + 1;
        }
      }
      weight[u] = 0;
#pragma unroll
      for (int i = 0; i < kDim / 32; i++) x[u][i] = make_uint4(0, 0, 0, 0);
      if (valid) {
        const uint32_t at = base + owner * 8;
        const uint2 entry =
            LoadEntry(h == 0 ? at + e * Lists::kEntryStep : at - e * Lists::kEntryStep);
        weight[u] = __uint_as_float(entry.x);
        const __nv_bfloat16* from = column + static_cast<size_t>(entry.y) * kDim;
#pragma unroll
        for (int i = 0; i < kDim / 32; i++) {
          x[u][i] = __ldg(reinterpret_cast<const uint4*>(from + i * 32));
        }
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; u++) {
#pragma unroll
      for (int i = 0; i < kDim / 32; i++) {
        const uint32_t pair[4] = {x[u][i].x, x[u][i].y, x[u][i].z, x[u][i].w};
#pragma unroll
        for (int c = 0; c < 4; c++) {
          out[8 * i + 2 * c] += weight[u] * __uint_as_float(pair[c] << 16);
          out[8 * i + 2 * c + 1] += weight[u] * __uint_as_float(pair[c] & 0xffff0000u);
        }
      }
    }
  }
}

// Writes out * scale as bf16; columns as in GatherValues.
template <int kDim>
__device__ __forceinline__ void StoreGathered(const float (&out)[kDim / 4], float scale, int lane,
                                              __nv_bfloat16* to) {
#pragma unroll
  for (int i = 0; i < kDim / 32; i++) {
    uint4 packed;
    uint32_t* pair = &packed.x;
#pragma unroll
    for (int c = 0; c < 4; c++) {
      const __nv_bfloat162 two =
          __floats2bfloat162_rn(out[8 * i + 2 * c] * scale, out[8 * i + 2 * c + 1] * scale);
      pair[c] = *reinterpret_cast<const uint32_t*>(&two);
    }
    *reinterpret_cast<uint4*>(to + i * 32 + (lane & 3) * 8) = packed;
  }
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_VALUE_GATHER_H_
