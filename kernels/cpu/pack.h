// Rows of keys or values, wherever they lie, in the form that the microkernels read.
// Compiled once for each instruction set; see simd.h.
#ifndef TAUSERVE_KERNELS_CPU_PACK_H_
#define TAUSERVE_KERNELS_CPU_PACK_H_

#include "kernels/cpu/attention_task.h"
#include "kernels/cpu/simd.h"

namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE {

// Whether scores are products of bfloat16 pairs.
template <DataType kType>
inline constexpr bool kPaired = kNativeBf16&& kType == DataType::kBFloat16;

// Whether packing a page takes less time than scoring it for a few rows key by key.
inline constexpr bool kPacksFast = TAUSERVE_ISA_LEVEL >= 2;

// kLanes elements of a row.
template <DataType kType>
TAUSERVE_INLINE F LoadElements(const std::byte* row, int d) {
  if constexpr (kType == DataType::kBFloat16) {
    return LoadBf16(reinterpret_cast<const uint16_t*>(row) + d);
  } else {
    return Load(reinterpret_cast<const float*>(row) + d);
  }
}

#if TAUSERVE_ISA_LEVEL >= 2

TAUSERVE_INLINE void Transpose16(__m512i (&r)[16]) {
  __m512i t[16];
  _Pragma("GCC unroll 4") for (int i = 0; i < 16; i += 4) {
    const __m512i a = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    const __m512i b = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    const __m512i c = _mm512_unpacklo_epi32(r[i + 2], r[i + 3]);
    const __m512i d = _mm512_unpackhi_epi32(r[i + 2], r[i + 3]);
    t[i] = _mm512_unpacklo_epi64(a, c);
    t[i + 1] = _mm512_unpackhi_epi64(a, c);
    t[i + 2] = _mm512_unpacklo_epi64(b, d);
    t[i + 3] = _mm512_unpackhi_epi64(b, d);
  }
  _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) {
    const __m512i a = _mm512_shuffle_i32x4(t[i], t[4 + i], 0x88);
    const __m512i b = _mm512_shuffle_i32x4(t[i], t[4 + i], 0xdd);
    const __m512i c = _mm512_shuffle_i32x4(t[8 + i], t[12 + i], 0x88);
    const __m512i d = _mm512_shuffle_i32x4(t[8 + i], t[12 + i], 0xdd);
    r[i] = _mm512_shuffle_i32x4(a, c, 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
}

// Keys row[0, 64) to `tile`: [head_dim][64] floats, or [head_dim / 2][64] pairs of bfloat16 (kPaired). Up to 32 bytes
// behind a row are read.
template <DataType kType>
inline void PackKeys(const std::byte* const* row, int head_dim, float* tile) {
  constexpr int kElements = kType == DataType::kBFloat16 ? 32 : 16;  // of a register
  for (int group = 0; group < kPageTokens; group += 16) {
    for (int d = 0; d < head_dim; d += kElements) {
      __m512i r[16];
      _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) {
        r[i] = _mm512_loadu_si512(row[group + i] + size_t(d) * SizeOf(kType));
      }
      Transpose16(r);
      float* to = tile + group;
      if constexpr (kPaired<kType>) {
        const int n = head_dim - d >= 32 ? 16 : 8;
        for (int i = 0; i < n; i++) _mm512_storeu_si512(to + (d / 2 + i) * kPageTokens, r[i]);
      } else if constexpr (kType == DataType::kBFloat16) {
        const int n = head_dim - d >= 32 ? 16 : 8;
        for (int i = 0; i < n; i++) {
          const I odd = (I)r[i] & static_cast<int32_t>(0xffff0000);
          StoreI(to + (d + 2 * i) * kPageTokens, (I)r[i] << 16);
          StoreI(to + (d + 2 * i + 1) * kPageTokens, odd);
        }
      } else {
        _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) {
          _mm512_storeu_si512(to + (d + i) * kPageTokens, r[i]);
        }
      }
    }
  }
}

#else

template <DataType kType>
inline void PackKeys(const std::byte* const* row, int head_dim, float* tile) {
  for (int d = 0; d < head_dim; d += kLanes) {
    for (int i = 0; i < kPageTokens; i++) {
      const F x = LoadElements<kType>(row[i], d);
      for (int l = 0; l < kLanes; l++) tile[(d + l) * kPageTokens + i] = x[l];
    }
  }
}

#endif

// A page's keys, unless the tile holds them already.
template <DataType kType>
inline void PackPage(const AttentionCall& call, const AttentionTask& task, int page, Workspace& w) {
  if (w.tile_page == page) return;
  const std::byte* keys = call.kv.keys(task.slice->pages[page], task.kv_head);
  const std::byte* row[kPageTokens];
  for (int i = 0; i < kPageTokens; i++) row[i] = keys + i * call.kv.row_bytes();
  PackKeys<kType>(row, call.kv.head_dim, w.tile);
  w.tile_page = page;
}

// The key or value row of a position.
inline const std::byte* KeyRow(const AttentionCall& call, const AttentionTask& task, int position) {
  const PageId page = task.slice->pages[position / kPageTokens];
  return call.kv.keys(page, task.kv_head) + (position % kPageTokens) * call.kv.row_bytes();
}
inline const std::byte* ValueRow(const AttentionCall& call, const AttentionTask& task,
                                 int position) {
  return KeyRow(call, task, position) + call.kv.block_bytes();
}

// `n` value rows as floats, [n][head_dim].
template <DataType kType>
inline void UnpackValues(const std::byte* const* row, int n, int head_dim, float* out) {
  for (int i = 0; i < n; i++) {
    for (int d = 0; d < head_dim; d += kLanes) {
      Store(out + i * head_dim + d, LoadElements<kType>(row[i], d));
    }
  }
}

// `n` value rows of bfloat16 as pairs of rows, [ceil(n / 2)][head_dim]; where n is odd, the last one's partner is zeros.
inline void PackValuePairs(const std::byte* const* row, int n, int head_dim, int32_t* out) {
  for (int t = 0; t < n; t += 2, out += head_dim) {
    const uint16_t* even = reinterpret_cast<const uint16_t*>(row[t]);
    const uint16_t* odd = t + 1 < n ? reinterpret_cast<const uint16_t*>(row[t + 1]) : even;
    const I mask = Set1(t + 1 < n ? -1 : 0xffff);
    for (int d = 0; d < head_dim; d += kLanes) StoreI(out + d, LoadPairs(even + d, odd + d) & mask);
  }
}

// The same as a product with weights reads them: pairs (where kPaired) or floats. Returns `out`.
template <DataType kType, bool kPairs>
inline const void* PackValues(const std::byte* const* row, int n, int head_dim, float* out) {
  if constexpr (kPairs) {
    PackValuePairs(row, n, head_dim, reinterpret_cast<int32_t*>(out));
  } else {
    UnpackValues<kType>(row, n, head_dim, out);
  }
  return out;
}

// The first `slots` values of a page as a product reads them, where they lie or in w.values.
template <DataType kType, bool kPairs>
inline const void* PageValues(const AttentionCall& call, const AttentionTask& task, int page,
                              int slots, Workspace& w) {
  const std::byte* values = call.kv.values(task.slice->pages[page], task.kv_head);
  if constexpr (kType == DataType::kFloat32) return values;
  const std::byte* row[kPageTokens];
  for (int i = 0; i < slots; i++) row[i] = values + i * call.kv.row_bytes();
  return PackValues<kType, kPairs>(row, slots, call.kv.head_dim, w.values);
}

}  // namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE

#endif  // TAUSERVE_KERNELS_CPU_PACK_H_
