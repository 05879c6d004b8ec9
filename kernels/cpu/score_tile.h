// The microkernel: raw scores of kTileRows query rows against the keys of a page, and the block of query rows it reads.
// Compiled once for each instruction set; see simd.h.
#ifndef TAUSERVE_KERNELS_CPU_SCORE_TILE_H_
#define TAUSERVE_KERNELS_CPU_SCORE_TILE_H_

#include "kernels/cpu/attention_task.h"
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

// Whether queries are kept as pairs of bfloat16.
template <DataType kType>
inline constexpr bool kPairedQueries = kNativeBf16&& kType == DataType::kBFloat16;

// Stores row `r` of the block, times `sign`, in the form that ScoreTile reads. Returns an upper bound of its norm.
template <DataType kType>
inline float StoreQuery(const float* q, float sign, int head_dim, int r, Workspace& w) {
  float square = 0;
  if constexpr (kPairedQueries<kType>) {
    uint16_t* to = reinterpret_cast<uint16_t*>(w.q) + r * head_dim;
    for (int d = 0; d < head_dim; d++) {
      to[d] = RoundToBf16(sign * q[d]);
      square += FromBf16(to[d]) * FromBf16(to[d]);
    }
  } else {
    float* to = w.q + r * head_dim;
    for (int d = 0; d < head_dim; d++) {
      to[d] = sign * q[d];
      square += to[d] * to[d];
    }
  }
  return __builtin_sqrtf(square) * (1 + 1e-4f);
}

// acc += q . k for rows [row, row + R) of the block and part `part` of a page's keys.
template <DataType kType, int R>
TAUSERVE_INLINE void ScoreTile(const Workspace& w, int row, const std::byte* keys, int head_dim,
                               int part, Tile<R>& acc) {
  if constexpr (kPairedQueries<kType>) {
    const int32_t* q = reinterpret_cast<const int32_t*>(w.q) + row * (head_dim / 2);
    const std::byte* at = keys + part * kTileKeys * 4;
    for (int d = 0; d < head_dim / 2; d++, at += kPageTokens * 4) {
      I k[kTileVectors];
      TAUSERVE_TILE_VECTORS k[v] = LoadI(at + v * kLanes * 4);
      TAUSERVE_TILE_ROWS {
        const I b = Set1(q[r * (head_dim / 2) + d]);
        TAUSERVE_TILE_VECTORS acc[r][v] = DotPairs(acc[r][v], b, k[v]);
      }
    }
  } else if constexpr (kType == DataType::kBFloat16) {
    const float* q = w.q + row * head_dim;
    const std::byte* at = keys + part * kTileKeys * 4;
    for (int d = 0; d < head_dim; d += 2, at += kPageTokens * 4) {
      F even[kTileVectors], odd[kTileVectors];
      TAUSERVE_TILE_VECTORS LoadPairs(reinterpret_cast<const uint16_t*>(at) + v * kLanes * 2,
                                      even[v], odd[v]);
      TAUSERVE_TILE_ROWS {
        const F b = Set1(q[r * head_dim + d]);
        TAUSERVE_TILE_VECTORS acc[r][v] = Fma(b, even[v], acc[r][v]);
      }
      TAUSERVE_TILE_ROWS {
        const F b = Set1(q[r * head_dim + d + 1]);
        TAUSERVE_TILE_VECTORS acc[r][v] = Fma(b, odd[v], acc[r][v]);
      }
    }
  } else {
    const float* q = w.q + row * head_dim;
    const float* at = reinterpret_cast<const float*>(keys) + part * kTileKeys;
    for (int d = 0; d < head_dim; d++, at += kPageTokens) {
      F k[kTileVectors];
      TAUSERVE_TILE_VECTORS k[v] = Load(at + v * kLanes);
      TAUSERVE_TILE_ROWS {
        const F b = Set1(q[r * head_dim + d]);
        TAUSERVE_TILE_VECTORS acc[r][v] = Fma(b, k[v], acc[r][v]);
      }
    }
  }
}

// The tile's start: the ALiBi term slope * (key - position), in raw units.
template <int R>
TAUSERVE_INLINE void StartTile(const RowState* rows, int first_key, Tile<R>& acc) {
  const F lane = ToF(Iota());
  TAUSERVE_TILE_ROWS {
    const float slope = rows[r].slope;
    TAUSERVE_TILE_VECTORS {
      const float offset = static_cast<float>(first_key + v * kLanes - rows[r].position);
      acc[r][v] = Set1(slope) * (lane + offset);
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

TAUSERVE_INLINE int NewestPosition(const RowState* rows) {
  int newest = 0;
  for (int r = 0; r < kTileRows; r++)
    newest = rows[r].position > newest ? rows[r].position : newest;
  return newest;
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
