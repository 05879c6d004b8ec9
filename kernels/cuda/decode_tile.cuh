// Scores of one tile of keys for up to 8 query heads on tensor cores: keys are the 16-row operand of an mma, the
// queries its 8 columns. The dot product doesn't mind a permuted head dimension, so a thread loads 16 consecutive bytes
// of a key as its operand; neither ldmatrix nor a swizzled cache is needed.
//
// A thread (g = lane / 4, t = lane % 4) holds scores of keys g and g + 8 of each 16 for columns 2 t and 2 t + 1.
#ifndef TAUSERVE_KERNELS_CUDA_DECODE_TILE_CUH_
#define TAUSERVE_KERNELS_CUDA_DECODE_TILE_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/attention_args.h"
#include "kernels/cuda/decode_plan.h"
#include "kernels/cuda/mma.cuh"

namespace tauserve::cuda::decode {

inline constexpr unsigned kFullWarp = 0xffffffffu;
inline constexpr float kInfinity = __builtin_huge_valf();

__device__ __forceinline__ float Low(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float High(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

__device__ __forceinline__ uint4 LoadStreaming(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

// By the hardware's instruction, 2^-22 off at most: that of the library calls a subroutine for 0, whose instructions are
// far away and take 2000 cycles to arrive.
__device__ __forceinline__ float SquareRoot(float x) {
  float y;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ void MmaInt8(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                        uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// A tile is a part of a page that one warp copies and scores at a time: 4 to 8 KiB of consecutive memory.
template <int kHeadDim, bool kShadow>
struct Tile {
  static constexpr int kRowBytes = kShadow ? kHeadDim : 2 * kHeadDim;
  static constexpr int kKeys = kRowBytes <= 128 ? 64 : kRowBytes <= 256 ? 32 : 16;
  static constexpr int kKeyBytes = kKeys * kRowBytes;
  static constexpr int kScaleBytes = kShadow ? kKeys * static_cast<int>(sizeof(ShadowScale)) : 0;
  static constexpr int kBytes = kKeyBytes + kScaleBytes;
  static constexpr int kPerPage = kPageTokens / kKeys;
  static constexpr int kBlocks = kKeys / 16;  // of 16 keys
  static_assert(kBytes % 128 == 0);
};

// Scaled scores are s = mul * (q . k) + slope * (key - position), with alpha - 1 folded in; of softmax columns, in units
// of ln 2. A column's constants:
struct Column {
  float mul;
  float slope;
};

// What they are made of, loaded ahead of its use.
struct ColumnInput {
  Head head;
  float query_scale;
};

__device__ __forceinline__ ColumnInput LoadColumn(const AttentionArgs& args,
                                                  const DecodeGroup& group, int column) {
  ColumnInput in{{1.5f, 0}, 0};
  if (column >= group.num_columns) return in;
  const int head = group.head[column];
  in.query_scale = 1;
  if (args.query_scale) {
    in.query_scale = __ldg(args.query_scale + group.row * args.query_scale_stride + head);
  }
  in.head.alpha = __ldg(&args.heads[head].alpha);
  in.head.alibi_slope = __ldg(&args.heads[head].alibi_slope);
  return in;
}

__device__ __forceinline__ Column MakeColumn(const AttentionArgs& args, const ColumnInput& in) {
  const float unit = in.head.alpha == 1 ? 1.4426950408889634f : in.head.alpha - 1;
  return {unit * args.scale * in.query_scale, args.causal ? unit * in.head.alibi_slope : 0.0f};
}

__device__ __forceinline__ Column MakeColumn(const AttentionArgs& args, const DecodeGroup& group,
                                             int column) {
  return MakeColumn(args, LoadColumn(args, group, column));
}

__device__ __forceinline__ const __nv_bfloat16* QueryOf(const AttentionArgs& args,
                                                        const DecodeGroup& group, int column) {
  return args.q + group.row * args.q_stride +
         static_cast<int64_t>(group.head[column]) * args.head_dim;
}

// The queries as the mma's second operand, and the two columns' constants of this thread.
template <int kHeadDim>
struct Bf16Queries {
  static constexpr int kChunks = kHeadDim / 32;
  uint32_t b[4 * kChunks];

  __device__ __forceinline__ void Load(const AttentionArgs& args, const DecodeGroup& group) {
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
#pragma unroll
    for (int i = 0; i < kChunks; i++) {
      uint4 x = make_uint4(0, 0, 0, 0);
      if (g < group.num_columns) {
        x = LoadStreaming(QueryOf(args, group, g) + i * 32 + t * 8);
      }
      b[4 * i] = x.x;
      b[4 * i + 1] = x.y;
      b[4 * i + 2] = x.z;
      b[4 * i + 3] = x.w;
    }
  }

  // |q| of column g, in the four threads of g.
  __device__ __forceinline__ float Norm() const {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 4 * kChunks; i++) sum += Low(b[i]) * Low(b[i]) + High(b[i]) * High(b[i]);
    sum += __shfl_xor_sync(kFullWarp, sum, 1);
    sum += __shfl_xor_sync(kFullWarp, sum, 2);
    return SquareRoot(sum) * 1.0001f;
  }
};

// Loads chunks of 64 bytes of a key's row into the thread's operand registers. In shared memory two neighbouring rows
// whose length is a multiple of 128 bytes share banks: odd rows then load the chunks of a pair in the other order.
template <int kChunks>
__device__ __forceinline__ void LoadRow(const char* row, uint4 (&x)[kChunks]) {
  const int lane = threadIdx.x & 31, odd = lane >> 2 & 1, t = lane & 3;
  if constexpr (kChunks % 2 == 1) {
#pragma unroll
    for (int i = 0; i < kChunks; i++) x[i] = *reinterpret_cast<const uint4*>(row + i * 64 + t * 16);
  } else {
#pragma unroll
    for (int i = 0; i < kChunks; i += 2) {
      const uint4 a = *reinterpret_cast<const uint4*>(row + (i + odd) * 64 + t * 16);
      const uint4 b = *reinterpret_cast<const uint4*>(row + (i + 1 - odd) * 64 + t * 16);
      x[i] = odd ? b : a;
      x[i + 1] = odd ? a : b;
    }
  }
}

template <int kHeadDim>
__device__ __forceinline__ void DotBf16(const uint4 (&low)[kHeadDim / 32],
                                        const uint4 (&high)[kHeadDim / 32],
                                        const Bf16Queries<kHeadDim>& q, float (&c)[4]) {
  float d[4] = {0, 0, 0, 0};  // two chains of dependent products, half as long
#pragma unroll
  for (int i = 0; i < kHeadDim / 32; i++) {
    MmaBf16(c, low[i].x, high[i].x, low[i].y, high[i].y, q.b[4 * i], q.b[4 * i + 1]);
    MmaBf16(d, low[i].z, high[i].z, low[i].w, high[i].w, q.b[4 * i + 2], q.b[4 * i + 3]);
  }
#pragma unroll
  for (int i = 0; i < 4; i++) c[i] += d[i];
}

// q = step (high + low / 254) + rest, high and low in bytes: to 16 bits, so that the keys' residuals alone count in
// the bounds |q . k - estimate| <= |q| rest_norm + |rest| |code| scale.
template <int kHeadDim>
struct ShadowQueries {
  static constexpr int kChunks = kHeadDim / 64;           // of 64 bytes of a key's codes
  static constexpr bool kHalfChunk = kHeadDim % 64 != 0;  // and one of 32 bytes
  static constexpr int kWords = 4 * kChunks + (kHalfChunk ? 2 : 0);
  uint32_t high[kWords];
  uint32_t low[kWords];
  float step[2];  // of the thread's two columns, as all below, times |mul|
  float norm[2];
  float rest[2];
  uint4 loaded[kWords / 2];  // bf16 values of column g, 8 each

  __device__ __forceinline__ void Load(const AttentionArgs& args, const DecodeGroup& group) {
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
#pragma unroll
    for (int i = 0; i < kWords / 2; i++) {
      const int d = i < 2 * kChunks ? (i / 2) * 64 + t * 16 + (i % 2) * 8 : kChunks * 64 + t * 8;
      loaded[i] = make_uint4(0, 0, 0, 0);
      if (g < group.num_columns) loaded[i] = LoadStreaming(QueryOf(args, group, g) + d);
    }
  }

  __device__ __forceinline__ void Prepare(const Column (&columns)[2]) {
    const int t = threadIdx.x & 3;
    float x[4 * kWords];
#pragma unroll
    for (int i = 0; i < kWords / 2; i++) {
      const uint32_t pair[4] = {loaded[i].x, loaded[i].y, loaded[i].z, loaded[i].w};
#pragma unroll
      for (int k = 0; k < 4; k++) {
        x[8 * i + 2 * k] = Low(pair[k]);
        x[8 * i + 2 * k + 1] = High(pair[k]);
      }
    }
    float most = 0, square = 0, error = 0;
#pragma unroll
    for (int i = 0; i < 4 * kWords; i++) {
      most = fmaxf(most, fabsf(x[i]));
      square += x[i] * x[i];
    }
    for (int o = 1; o < 4; o <<= 1) {
      most = fmaxf(most, __shfl_xor_sync(kFullWarp, most, o));
      square += __shfl_xor_sync(kFullWarp, square, o);
    }
    const float s = fmaxf(most, 1e-30f) / 127, inverse = 1 / s;
#pragma unroll
    for (int i = 0; i < kWords; i++) {
      high[i] = low[i] = 0;
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const float y = x[4 * i + k] * inverse;
        const int a = __float2int_rn(y), b = __float2int_rn((y - a) * 254);
        const float e = x[4 * i + k] - s * (a + b * (1.0f / 254));
        error += e * e;
        high[i] |= static_cast<uint32_t>(a & 255) << (8 * k);
        low[i] |= static_cast<uint32_t>(b & 255) << (8 * k);
      }
    }
    for (int o = 1; o < 4; o <<= 1) error += __shfl_xor_sync(kFullWarp, error, o);
    const float q_norm = SquareRoot(square) * 1.0001f;
    // 2e-6 |q|: rounding of the estimate itself; |code| <= 127 sqrt(head_dim).
    const float rest_norm =
        (SquareRoot(error) * 1.0001f + 2e-6f * q_norm) * 127 * sqrtf(kHeadDim * 1.0f);
#pragma unroll
    for (int c = 0; c < 2; c++) {
      const int from = (2 * t + c) * 4;
      const float m = fabsf(columns[c].mul);
      step[c] = columns[c].mul * __shfl_sync(kFullWarp, s, from) * (1.0f / 254);
      norm[c] = m * __shfl_sync(kFullWarp, q_norm, from);
      rest[c] = m * __shfl_sync(kFullWarp, rest_norm, from);
    }
  }
};

template <int kHeadDim>
__device__ __forceinline__ void DotInt8(const char* low_row, const char* high_row,
                                        const ShadowQueries<kHeadDim>& q, int (&dot)[4]) {
  using Queries = ShadowQueries<kHeadDim>;
  int c[4] = {0, 0, 0, 0}, f[4] = {0, 0, 0, 0};
  uint4 a[Queries::kChunks], b[Queries::kChunks];
  LoadRow(low_row, a);
  LoadRow(high_row, b);
#pragma unroll
  for (int i = 0; i < Queries::kChunks; i++) {
    MmaInt8(c, a[i].x, b[i].x, a[i].y, b[i].y, q.high[4 * i], q.high[4 * i + 1]);
    MmaInt8(f, a[i].x, b[i].x, a[i].y, b[i].y, q.low[4 * i], q.low[4 * i + 1]);
    MmaInt8(c, a[i].z, b[i].z, a[i].w, b[i].w, q.high[4 * i + 2], q.high[4 * i + 3]);
    MmaInt8(f, a[i].z, b[i].z, a[i].w, b[i].w, q.low[4 * i + 2], q.low[4 * i + 3]);
  }
  if constexpr (Queries::kHalfChunk) {
    constexpr int w = 4 * Queries::kChunks;
    const int t = threadIdx.x & 3;
    const uint2 x = *reinterpret_cast<const uint2*>(low_row + Queries::kChunks * 64 + t * 8);
    const uint2 y = *reinterpret_cast<const uint2*>(high_row + Queries::kChunks * 64 + t * 8);
    MmaInt8(c, x.x, y.x, x.y, y.y, q.high[w], q.high[w + 1]);
    MmaInt8(f, x.x, y.x, x.y, y.y, q.low[w], q.low[w + 1]);
  }
#pragma unroll
  for (int i = 0; i < 4; i++) dot[i] = c[i] * 254 + f[i];
}

// Bounds of the scaled scores of a tile, without bias. [block of 16 keys][key g, column 0; g, 1; g + 8, 0; g + 8, 1].
template <int kBlocks, bool kShadow>
struct TileScores {
  float upper[kBlocks][4];
  float margin[kShadow ? kBlocks : 1][4];  // upper - lower

  __device__ __forceinline__ float Lower(int block, int i) const {
    if constexpr (kShadow) return upper[block][i] - margin[block][i];
    return upper[block][i];
  }
};

template <int kHeadDim, bool kShadow>
struct Queries;

template <int kHeadDim>
struct Queries<kHeadDim, false> : Bf16Queries<kHeadDim> {
  __device__ __forceinline__ void Prepare(const Column (&columns)[2]) {
    mul[0] = columns[0].mul;
    mul[1] = columns[1].mul;
    const float q_norm = Bf16Queries<kHeadDim>::Norm();
#pragma unroll
    for (int c = 0; c < 2; c++) {
      norm[c] = fabsf(mul[c]) * __shfl_sync(kFullWarp, q_norm, (2 * (threadIdx.x & 3) + c) * 4);
    }
  }
  float mul[2];
  float norm[2];  // |mul q|

  using Shape = Tile<kHeadDim, false>;
  __device__ __forceinline__ void Score(const char* tile,
                                        TileScores<Shape::kBlocks, false>& scores) const {
    const int g = (threadIdx.x & 31) >> 2;
#pragma unroll
    for (int m = 0; m < Shape::kBlocks; m++) {
      uint4 low[kHeadDim / 32], high[kHeadDim / 32];
      LoadRow(tile + (m * 16 + g) * Shape::kRowBytes, low);
      LoadRow(tile + (m * 16 + g + 8) * Shape::kRowBytes, high);
      float c[4] = {0, 0, 0, 0};
      DotBf16<kHeadDim>(low, high, *this, c);
#pragma unroll
      for (int i = 0; i < 4; i++) scores.upper[m][i] = c[i] * mul[i & 1];
    }
  }
};

template <int kHeadDim>
struct Queries<kHeadDim, true> : ShadowQueries<kHeadDim> {
  using Shape = Tile<kHeadDim, true>;
  __device__ __forceinline__ void Score(const char* tile,
                                        TileScores<Shape::kBlocks, true>& scores) const {
    const int g = (threadIdx.x & 31) >> 2;
    const __half2* scale = reinterpret_cast<const __half2*>(tile + Shape::kKeyBytes);
#pragma unroll
    for (int m = 0; m < Shape::kBlocks; m++) {
      int dot[4];
      const char* row = tile + (m * 16 + g) * Shape::kRowBytes;
      DotInt8<kHeadDim>(row, row + 8 * Shape::kRowBytes, *this, dot);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float2 s = __half22float2(scale[m * 16 + g + (i >> 1) * 8]);
        const float error = s.y * this->norm[i & 1] + s.x * this->rest[i & 1];
        scores.upper[m][i] = static_cast<float>(dot[i]) * (s.x * this->step[i & 1]) + error;
        scores.margin[m][i] = 2 * error;
      }
    }
  }
};

}  // namespace tauserve::cuda::decode

#endif  // TAUSERVE_KERNELS_CUDA_DECODE_TILE_CUH_
