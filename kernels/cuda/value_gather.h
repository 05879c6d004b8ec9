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
template <typename Lists, typename Element>
__device__ __forceinline__ float MakeWeights(Lists& lists, int h, const entmax::WeightFunction& w,
                                             float inverse_width, float shift,
                                             const PrefillParams<Element>& p, const int32_t* pages,
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

// Adds weight x value over the entries of both rows in the quad's four lists, in the order of their threads. out[h][8i + c]
// is row h, column 32i + 8(lane % 4) + c.
template <int kDim, int kUnroll, typename Lists, typename Element>
__device__ __forceinline__ void GatherValues(const Lists& lists, const Element* values, int lane,
                                             float (&out)[2][kDim / 4]) {
  int before[2][3], total[2];  // entries of the quad's first threads, and of all
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int count = lists.Count(h);
    total[h] = 0;
#pragma unroll
    for (int o = 0; o < 4; o++) {
      total[h] += __shfl_sync(~0u, count, (lane & 28) + o);
      if (o < 3) before[h][o] = total[h];
    }
#pragma unroll
    for (int i = 0; i < kDim / 4; i++) out[h][i] = 0;
  }
  const int longest = __reduce_max_sync(~0u, max(total[0], total[1]));
  const Element* column = values + (lane & 3) * 8;
#pragma unroll 1
  for (int first = 0; first < longest; first += kUnroll) {
    float weight[2][kUnroll];
    uint4 x[2][kUnroll][kDim / 32];
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const uint32_t base = (h == 0 ? lists.bottom : lists.Top()) - (lane & 3) * 8;
#pragma unroll
      for (int u = 0; u < kUnroll; u++) {
        const int e = first + u;
        const bool valid = e < total[h];
        int owner = 0, skipped = 0;
#pragma unroll
        for (int o = 0; o < 3; o++) {
          if (e >= before[h][o]) {
            owner = o + 1;
            skipped = before[h][o];
          }
        }
        weight[h][u] = 0;
#pragma unroll
        for (int i = 0; i < kDim / 32; i++) x[h][u][i] = make_uint4(0, 0, 0, 0);
        if (valid) {
          const int offset = (e - skipped) * Lists::kEntryStep;
          const uint2 entry = LoadEntry(base + owner * 8 + (h == 0 ? offset : -offset));
          weight[h][u] = __uint_as_float(entry.x);
          const Element* from = column + static_cast<size_t>(entry.y) * kDim;
#pragma unroll
          for (int i = 0; i < kDim / 32; i++) {
            x[h][u][i] = __ldg(reinterpret_cast<const uint4*>(from + i * 32));
          }
        }
      }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
      for (int u = 0; u < kUnroll; u++) {
#pragma unroll
        for (int i = 0; i < kDim / 32; i++) {
          const uint32_t pair[4] = {x[h][u][i].x, x[h][u][i].y, x[h][u][i].z, x[h][u][i].w};
#pragma unroll
          for (int c = 0; c < 4; c++) {
            out[h][8 * i + 2 * c] += weight[h][u] * LowOf<Element>(pair[c]);
            out[h][8 * i + 2 * c + 1] += weight[h][u] * HighOf<Element>(pair[c]);
          }
        }
      }
    }
  }
}

// Writes out * scale; columns as in GatherValues.
template <int kDim, typename Element>
__device__ __forceinline__ void StoreGathered(const float (&out)[kDim / 4], float scale, int lane,
                                              Element* to) {
#pragma unroll
  for (int i = 0; i < kDim / 32; i++) {
    uint4 packed;
    uint32_t* pair = &packed.x;
#pragma unroll
    for (int c = 0; c < 4; c++) {
      pair[c] = PackPair<Element>(out[8 * i + 2 * c] * scale, out[8 * i + 2 * c + 1] * scale);
    }
    *reinterpret_cast<uint4*>(to + i * 32 + (lane & 3) * 8) = packed;
  }
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_VALUE_GATHER_H_
