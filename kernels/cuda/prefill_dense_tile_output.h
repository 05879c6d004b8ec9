// The last pass of a dense row tile: weights times values.
#ifndef TAUSERVE_KERNELS_CUDA_PREFILL_DENSE_TILE_OUTPUT_H_
#define TAUSERVE_KERNELS_CUDA_PREFILL_DENSE_TILE_OUTPUT_H_

#include "kernels/cuda/prefill_dense_tile.h"

namespace tauserve::cuda {

// The last pass, from its first message to its end.
template <typename Element, int kDim, int kWarpgroups, entmax::Form kForm>
template <bool kRests>
__device__ __forceinline__ void DenseRowTile<Element, kDim, kWarpgroups, kForm>::WriteOutput() {
  float out[kChunks][32];
#pragma unroll
  for (int c = 0; c < kChunks; c++) {
#pragma unroll
    for (int i = 0; i < 32; i++) out[c][i] = 0;
  }
  for (;;) {
    BarrierWait(SharedAddress(&control.full[stage]), parity);
    const DenseMessage& message = control.message[stage];
    const int page = Uniform(message.page), second = Uniform(message.second);
    if (page < 0) break;
    if (!Skips(page)) AddPageValues<kRests>(0, page, out);
    if (!Skips(second)) AddPageValues<kRests>(1, second, out);
    Release();
  }
  Release();
  if (active) Finish(out);
}

// `kRests`: with what rounding leaves of the weights; scores are made again for it, since registers don't hold both.
template <typename Element, int kDim, int kWarpgroups, entmax::Form kForm>
template <bool kRests>
__device__ __forceinline__ void DenseRowTile<Element, kDim, kWarpgroups, kForm>::AddPageValues(
    int place, int page, float (&out)[kChunks][32]) {
  AddValues<false>(place, page, out);
  if constexpr (kRests) AddValues<true>(place, page, out);
}

// `kRests`: of what rounding left of the weights.
template <typename Element, int kDim, int kWarpgroups, entmax::Form kForm>
template <bool kRests>
__device__ __forceinline__ void DenseRowTile<Element, kDim, kWarpgroups, kForm>::AddValues(
    int place, int page, float (&out)[kChunks][32]) {
  float c[32];
  Multiply(c, place, page);
  uint32_t weights[4][4];
  if constexpr (kRests) {
    MakeRests(c, weights);
  } else {
    MakeWeights(c, page, weights);
  }
  const uint32_t at =
      stages + stage * 2 * Shape::kKeyBytes + Shape::kKeyBytes + place * (kPageTokens * 128);
#pragma unroll
  for (int chunk = 0; chunk < kChunks; chunk++) PinAccumulators(out[chunk]);
  WgmmaFence();
#pragma unroll
  for (int k = 0; k < 4; k++) {
#pragma unroll
    for (int chunk = 0; chunk < kChunks; chunk++) {
      const uint32_t values = at + chunk * (Shape::kStagePages * kPageTokens * 128) + k * 2048;
      WgmmaN64</*kAcross=*/true, Element>(out[chunk], weights[k],
                                          ColumnDescriptor(values, kPageTokens * 128), 1);
    }
  }
  WgmmaCommit();
  WgmmaWait<0>();
#pragma unroll
  for (int chunk = 0; chunk < kChunks; chunk++) PinAccumulators(out[chunk]);
}

// The weights of a page as the A operand of their product with the values. `sum` is of what the product sees, scaled and
// rounded, `first_power` of the weights themselves.
template <typename Element, int kDim, int kWarpgroups, entmax::Form kForm>
__device__ __forceinline__ void DenseRowTile<Element, kDim, kWarpgroups, kForm>::MakeWeights(
    const float (&c)[32], int page, uint32_t (&weights)[4][4]) {
  uint32_t any = 0;
#pragma unroll
  for (int i = 0; i < 16; i++) {
    const int h = i % 2;
    float x[2];
#pragma unroll
    for (int e = 0; e < 2; e++) {
      x[e] = WeightAt(c[2 * i + e], h);
      first_power[h] += x[e];
      below[h] += __float_as_uint(c[2 * i + e]) >> 31;
    }
    const uint32_t bits =
        PackPair<Element>(x[0] * kWeightScale<Element>, x[1] * kWeightScale<Element>);
    weights[i / 4][i % 4] = bits;
    sum[h] += LowOf<Element>(bits);
    sum[h] += HighOf<Element>(bits);
    any |= bits;
  }
  pages++;
  // Rounded weights stand in for the unrounded ones here.
  if (p.Stats() && __any_sync(~0u, any != 0) && lane == 0) {
    const int bit = (page - first_page) % kDensePages;
    const uint32_t mask = 1u << bit % 32;
    attended_pages += (atomicOr(&attended[bit / 32], mask) & mask) == 0;
  }
}

// What MakeWeights' rounding left of the weights.
template <typename Element, int kDim, int kWarpgroups, entmax::Form kForm>
__device__ __forceinline__ void DenseRowTile<Element, kDim, kWarpgroups, kForm>::MakeRests(
    const float (&c)[32], uint32_t (&rests)[4][4]) const {
#pragma unroll
  for (int i = 0; i < 16; i++) {
    float x[2];
#pragma unroll
    for (int e = 0; e < 2; e++) {
      x[e] = WeightAt(c[2 * i + e], i % 2);
      x[e] -= __bfloat162float(__float2bfloat16(x[e]));
    }
    rests[i / 4][i % 4] = PackPair(x[0], x[1]);
  }
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_PREFILL_DENSE_TILE_OUTPUT_H_
