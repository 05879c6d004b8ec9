// The microkernels: raw scores of kTileRows query rows against the keys of a page, in floats or in bytes, and of single
// keys. Compiled once for each instruction set; see simd.h.
#ifndef TAUSERVE_KERNELS_CPU_SCORE_TILE_H_
#define TAUSERVE_KERNELS_CPU_SCORE_TILE_H_

#include "kernels/cpu/attention_task.h"
#include "kernels/cpu/pack.h"
#include "kernels/cpu/simd.h"

namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE {

// A tile is kTileRows rows by kTileKeys keys: 24 of 32 registers with AVX-512, 12 of 16 otherwise. Decoded tokens fill
// only a few rows; a tile of R = 2 rows does not compute the others.
inline constexpr int kTileVectors = kLanes == 16 ? 4 : 2;
inline constexpr int kTileKeys = kTileVectors * kLanes;
inline constexpr int kPageParts = kPageTokens / kTileKeys;

template <int R>
using Tile = F[R][kTileVectors];

// Every loop over a tile is fully unrolled, or the accumulators live in memory (3 times slower).
#define TAUSERVE_TILE_ROWS _Pragma("GCC unroll 6") for (int r = 0; r < R; r++)
#define TAUSERVE_TILE_VECTORS _Pragma("GCC unroll 4") for (int v = 0; v < kTileVectors; v++)

TAUSERVE_INLINE uint16_t RoundToBf16(float f) {
  uint32_t bits;
  __builtin_memcpy(&bits, &f, 4);
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}
TAUSERVE_INLINE float FromBf16(uint16_t h) {
  const uint32_t bits = uint32_t{h} << 16;
  float f;
  __builtin_memcpy(&f, &bits, 4);
  return f;
}

inline constexpr float kNormSlack = 1 + 1e-4f;  // covers the rounding of a norm's sum

// 128 + the byte nearest to x * inverse. Whatever is not a number becomes some byte: its error is no number either, and
// then nothing is proven.
TAUSERVE_INLINE I ToOffsetByte(F x, float inverse) {
  return ToI(Min(Max(x * inverse, Set1(-127.0f)), Set1(127.0f)) + 128.5f);
}

// Row `r` of the block in bytes, for the search of shadows.
inline void StoreQueryBytes(int head_dim, int r, QueryBlock& to) {
  const float* row = to.rows + r * head_dim;
  F top{};
  for (int d = 0; d < head_dim; d += kLanes) top = Max(Max(Load(row + d), -Load(row + d)), top);
  const float largest = ReduceMax(top);
  const float inverse = largest > 1e-30f && largest < 1e30f ? 127 / largest : 0;
  const float scale = largest / 127;
  F error{};
  I sum{};
  for (int d = 0; d < head_dim; d += kLanes) {
    const F x = Load(row + d);
    const I byte = ToOffsetByte(x, inverse) - 128;
    StoreBytes(to.bytes + r * head_dim + d, byte);
    const F rest = x - ToF(byte) * scale;
    error = Fma(rest, rest, error);
    sum += byte;
  }
  to.error[r] = __builtin_sqrtf(ReduceAdd(error)) * kNormSlack + 1e-6f * to.norm[r];
  to.scale[r] = scale;
  to.inverse_scale[r] = inverse;
  to.byte_offset[r] = static_cast<int32_t>(128 * ReduceAdd(ToF(sum)));
}

// Stores row `r` of the block, times `sign`, as floats and as pairs where those are read.
template <DataType kType>
inline void StoreQuery(const float* q, float sign, int head_dim, int r, QueryBlock& to) {
  float* row = to.rows + r * head_dim;
  F square{};
  for (int d = 0; d < head_dim; d += kLanes) {
    F x = Load(q + d) * sign;
    if constexpr (kPaired<kType>) {
      uint16_t* rounded = reinterpret_cast<uint16_t*>(to.pairs) + r * head_dim + d;
      for (int l = 0; l < kLanes; l++) rounded[l] = RoundToBf16(x[l]);
      x = LoadBf16(rounded);
    }
    Store(row + d, x);
    square = Fma(x, x, square);
  }
  to.norm[r] = __builtin_sqrtf(ReduceAdd(square)) * kNormSlack;
}

// acc += row . k for R rows of floats and part `part` of the 64 packed keys of `tile`, floats as well.
template <int R>
TAUSERVE_INLINE void MultiplyTile(const float* rows, const float* tile, int head_dim, int part,
                                  Tile<R>& acc) {
  const float* at = tile + part * kTileKeys;
  for (int d = 0; d < head_dim; d++, at += kPageTokens) {
    F k[kTileVectors];
    TAUSERVE_TILE_VECTORS k[v] = Load(at + v * kLanes);
    TAUSERVE_TILE_ROWS {
      const F b = Set1(rows[r * head_dim + d]);
      TAUSERVE_TILE_VECTORS acc[r][v] = Fma(b, k[v], acc[r][v]);
    }
  }
}

// acc += q . k for rows [row, row + R) of the block and part `part` of the 64 packed keys of `tile`.
template <DataType kType, int R>
TAUSERVE_INLINE void ScoreTile(const QueryBlock& q, int row, const float* tile, int head_dim,
                               int part, Tile<R>& acc) {
  if constexpr (kPaired<kType>) {
    const float* at = tile + part * kTileKeys;
    const uint32_t* pairs = q.pairs + row * (head_dim / 2);
    for (int d = 0; d < head_dim / 2; d++, at += kPageTokens) {
      I k[kTileVectors];
      TAUSERVE_TILE_VECTORS k[v] = LoadI(at + v * kLanes);
      TAUSERVE_TILE_ROWS {
        const I b = Set1(static_cast<int32_t>(pairs[r * (head_dim / 2) + d]));
        TAUSERVE_TILE_VECTORS acc[r][v] = DotPairs(acc[r][v], b, k[v]);
      }
    }
  } else {
    MultiplyTile<R>(q.rows + row * head_dim, tile, head_dim, part, acc);
  }
}

// acc = sums of byte products of rows [row, row + R) with the 64 keys of a page's shadow; kHasByteDot only.
template <int R>
TAUSERVE_INLINE void ScoreBytes(const QueryBlock& q, int row, const uint8_t* shadow, int head_dim,
                                I (&acc)[R][kTileVectors]) {
  TAUSERVE_TILE_ROWS { TAUSERVE_TILE_VECTORS acc[r][v] = I{}; }
  const int8_t* rows = q.bytes + row * head_dim;
  for (int d = 0; d < head_dim; d += 4, shadow += 4 * kPageTokens) {
    I k[kTileVectors];
    TAUSERVE_TILE_VECTORS k[v] = LoadI(shadow + v * kLanes * 4);
    TAUSERVE_TILE_ROWS {
      int32_t bytes;
      __builtin_memcpy(&bytes, rows + r * head_dim + d, 4);
      const I b = Set1(bytes);
      TAUSERVE_TILE_VECTORS acc[r][v] = DotBytes(acc[r][v], k[v], b);
    }
  }
}

// q . k of one row and one key.
template <DataType kType>
TAUSERVE_INLINE float DotKey(const float* q, const std::byte* key, int head_dim) {
  F a{}, b{};
  int d = 0;
  for (; d + 2 * kLanes <= head_dim; d += 2 * kLanes) {
    a = Fma(Load(q + d), LoadElements<kType>(key, d), a);
    b = Fma(Load(q + d + kLanes), LoadElements<kType>(key, d + kLanes), b);
  }
  if (d < head_dim) a = Fma(Load(q + d), LoadElements<kType>(key, d), a);
  return ReduceAdd(a + b);
}

// The tile's start: the ALiBi term slope * (key - position), in raw units.
template <int R>
TAUSERVE_INLINE void StartTile(const QueryBlock& q, int row, int first_key, Tile<R>& acc) {
  const F lane = ToF(Iota());
  TAUSERVE_TILE_ROWS {
    const float offset = static_cast<float>(first_key) - q.position[row + r];
    TAUSERVE_TILE_VECTORS {
      acc[r][v] = Set1(q.slope[row + r]) * (lane + (offset + static_cast<float>(v * kLanes)));
    }
  }
}

// Replaces what a row must not see by -infinity (unused slots may hold anything, NaN included).
template <int R>
TAUSERVE_INLINE void MaskTile(const RowState* rows, int first_key, Tile<R>& acc) {
  const F minus_infinity = Set1(-__builtin_inff());
  TAUSERVE_TILE_ROWS {
    TAUSERVE_TILE_VECTORS {
      const int64_t key = first_key + v * kLanes;
      const Mask seen =
          FirstLanes(rows[r].position + 1 - key) & ~FirstLanes(rows[r].first_key - key);
      acc[r][v] = Select(seen, acc[r][v], minus_infinity);
    }
  }
}

// Keys of page `page` that `row` sees.
TAUSERVE_INLINE int VisibleKeys(const RowState& row, int page) {
  const int from = row.first_key > page * kPageTokens ? row.first_key : page * kPageTokens;
  const int last = page * kPageTokens + kPageTokens - 1;
  const int to = row.position < last ? row.position : last;
  return to >= from ? to - from + 1 : 0;
}

}  // namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE

#endif  // TAUSERVE_KERNELS_CPU_SCORE_TILE_H_
