// A small vector layer for the CPU kernels: the compiler's own vector types, plus the few operations it has no operator
// for. Included only by sources that are compiled once for each instruction set, each with TAUSERVE_ISA_NAMESPACE and
// TAUSERVE_ISA_LEVEL (0 portable, 1 avx2, 2 avx512, 3 avx512_vnni, 4 avx512_bf16) defined. Nothing from the standard
// library may be instantiated there with vector code in it, or a weaker machine could be handed the stronger copy by the linker.
#ifndef TAUSERVE_KERNELS_CPU_SIMD_H_
#define TAUSERVE_KERNELS_CPU_SIMD_H_

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define TAUSERVE_INLINE inline __attribute__((always_inline))

namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE {

#if TAUSERVE_ISA_LEVEL >= 2
inline constexpr int kLanes = 16;
#elif TAUSERVE_ISA_LEVEL == 1
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif
inline constexpr bool kHasByteDot = TAUSERVE_ISA_LEVEL >= 3;
inline constexpr bool kNativeBf16 = TAUSERVE_ISA_LEVEL >= 4;

typedef float F __attribute__((vector_size(kLanes * 4)));
typedef int32_t I __attribute__((vector_size(kLanes * 4)));
typedef float UnalignedF __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef int32_t UnalignedI __attribute__((vector_size(kLanes * 4), aligned(2), may_alias));
using Mask = uint32_t;  // bit l = lane l
inline constexpr Mask kAllLanes = (1u << kLanes) - 1;

TAUSERVE_INLINE F Set1(float x) { return x - F{}; }
TAUSERVE_INLINE I Set1(int32_t x) { return x - I{}; }
TAUSERVE_INLINE F Load(const float* p) { return *reinterpret_cast<const UnalignedF*>(p); }
TAUSERVE_INLINE I LoadI(const void* p) { return *static_cast<const UnalignedI*>(p); }
TAUSERVE_INLINE void Store(float* p, F x) { *reinterpret_cast<UnalignedF*>(p) = x; }
TAUSERVE_INLINE void StoreI(void* p, I x) { *static_cast<UnalignedI*>(p) = x; }
TAUSERVE_INLINE F AsF(I x) { return reinterpret_cast<F>(x); }
TAUSERVE_INLINE I AsI(F x) { return reinterpret_cast<I>(x); }

TAUSERVE_INLINE I Iota() {
  I x;
  for (int l = 0; l < kLanes; l++) x[l] = l;
  return x;
}
TAUSERVE_INLINE F ToF(I x) { return __builtin_convertvector(x, F); }
TAUSERVE_INLINE I ToI(F x) { return __builtin_convertvector(x, I); }  // towards zero

// Lanes below `n`, for any n.
TAUSERVE_INLINE Mask FirstLanes(int64_t n) {
  return n >= kLanes ? kAllLanes : n <= 0 ? 0 : (1u << n) - 1;
}

#if TAUSERVE_ISA_LEVEL >= 2

TAUSERVE_INLINE F Fma(F a, F b, F c) { return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
TAUSERVE_INLINE F Max(F a, F b) { return (F)_mm512_max_ps((__m512)a, (__m512)b); }
TAUSERVE_INLINE F Min(F a, F b) { return (F)_mm512_min_ps((__m512)a, (__m512)b); }
// False where either is NaN.
TAUSERVE_INLINE Mask Greater(F a, F b) {
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ);
}
TAUSERVE_INLINE F Select(Mask m, F yes, F no) {
  return (F)_mm512_mask_blend_ps(m, (__m512)no, (__m512)yes);
}
TAUSERVE_INLINE float ReduceAdd(F x) { return _mm512_reduce_add_ps((__m512)x); }
TAUSERVE_INLINE float ReduceMax(F x) { return _mm512_reduce_max_ps((__m512)x); }
// Writes the chosen lanes of x and id to s and ids, packed; up to kLanes elements beyond are overwritten. Returns how
// many. (Compress in registers: a masked compress to memory is microcode on some cores, up to 3 times slower overall.)
TAUSERVE_INLINE int Compress(Mask m, F x, I id, float* s, int32_t* ids) {
  _mm512_storeu_ps(s, _mm512_maskz_compress_ps(m, (__m512)x));
  _mm512_storeu_si512(ids, _mm512_maskz_compress_epi32(m, (__m512i)id));
  return __builtin_popcount(m);
}

#else

#if TAUSERVE_ISA_LEVEL == 1
TAUSERVE_INLINE F Fma(F a, F b, F c) { return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
TAUSERVE_INLINE F Max(F a, F b) { return (F)_mm256_max_ps((__m256)a, (__m256)b); }
TAUSERVE_INLINE F Min(F a, F b) { return (F)_mm256_min_ps((__m256)a, (__m256)b); }
TAUSERVE_INLINE Mask Greater(F a, F b) {
  return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GT_OQ));
}
#else
TAUSERVE_INLINE F Fma(F a, F b, F c) { return a * b + c; }
TAUSERVE_INLINE F Max(F a, F b) { return a > b ? a : b; }
TAUSERVE_INLINE F Min(F a, F b) { return a < b ? a : b; }
TAUSERVE_INLINE Mask Greater(F a, F b) {
#if defined(__SSE2__)
  return _mm_movemask_ps((__m128)(a > b));
#else
  const I g = a > b;
  Mask m = 0;
  for (int l = 0; l < kLanes; l++) m |= (g[l] & 1u) << l;
  return m;
#endif
}
#endif

TAUSERVE_INLINE F Select(Mask m, F yes, F no) {
  const I bit = (I{} + 1) << Iota();
  return (Set1(static_cast<int32_t>(m)) & bit) != 0 ? yes : no;
}
TAUSERVE_INLINE float ReduceAdd(F x) {
  float sum = 0;
  for (int l = 0; l < kLanes; l++) sum += x[l];
  return sum;
}
TAUSERVE_INLINE float ReduceMax(F x) {
  float max = x[0];
  for (int l = 1; l < kLanes; l++) max = x[l] > max ? x[l] : max;
  return max;
}
TAUSERVE_INLINE int Compress(Mask m, F x, I id, float* s, int32_t* ids) {
  int n = 0;
  for (; m; m &= m - 1, n++) {
    const int l = __builtin_ctz(m);
    s[n] = x[l];
    ids[n] = id[l];
  }
  return n;
}

#endif

TAUSERVE_INLINE I SelectI(Mask m, I yes, I no) { return AsI(Select(m, AsF(yes), AsF(no))); }
TAUSERVE_INLINE I MaxI(I a, I b) {
#if TAUSERVE_ISA_LEVEL >= 2
  return (I)_mm512_max_epi32((__m512i)a, (__m512i)b);
#else
  return a > b ? a : b;
#endif
}
TAUSERVE_INLINE Mask GreaterI(I a, I b) {
#if TAUSERVE_ISA_LEVEL >= 2
  return _mm512_cmpgt_epi32_mask((__m512i)a, (__m512i)b);
#else
  const I g = a > b;
  Mask m = 0;
  for (int l = 0; l < kLanes; l++) m |= (g[l] & 1u) << l;
  return m;
#endif
}

// Counts one for each chosen lane.
TAUSERVE_INLINE void AddOnes(int32_t* counts, Mask m) {
#if TAUSERVE_ISA_LEVEL >= 2
  const __m512i c = _mm512_loadu_si512(counts);
  _mm512_storeu_si512(counts, _mm512_mask_add_epi32(c, m, c, _mm512_set1_epi32(1)));
#else
  for (int l = 0; l < kLanes; l++) counts[l] += m >> l & 1;
#endif
}

// kLanes bfloat16.
TAUSERVE_INLINE F LoadBf16(const uint16_t* p) {
#if TAUSERVE_ISA_LEVEL >= 2
  return (F)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
#elif TAUSERVE_ISA_LEVEL == 1
  return (F)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16);
#else
  I x;
  for (int l = 0; l < kLanes; l++) x[l] = p[l] << 16;
  return AsF(x);
#endif
}

// acc + even(q) * even(k) + odd(q) * odd(k) for bfloat16 pairs; kNativeBf16 only.
TAUSERVE_INLINE F DotPairs(F acc, I q, I k) {
#if TAUSERVE_ISA_LEVEL >= 4
  return (F)_mm512_dpbf16_ps((__m512)acc, (__m512bh)q, (__m512bh)k);
#else
  (void)q, (void)k;
  return acc;
#endif
}

// kLanes floats rounded to bfloat16; kNativeBf16 only.
TAUSERVE_INLINE void StoreRounded(uint16_t* p, F x) {
#if TAUSERVE_ISA_LEVEL >= 4
  _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh((__m512)x));
#else
  (void)p, (void)x;
#endif
}

// kLanes bfloat16 of `even` and of `odd` as pairs; kLanes == 16 only.
TAUSERVE_INLINE I LoadPairs(const uint16_t* even, const uint16_t* odd) {
#if TAUSERVE_ISA_LEVEL >= 2
  const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)even));
  const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)odd));
  return (I)_mm512_or_si512(low, _mm512_slli_epi32(high, 16));
#else
  (void)even, (void)odd;
  return I{};
#endif
}

// The lanes' lowest bytes.
TAUSERVE_INLINE void StoreBytes(int8_t* p, I x) {
#if TAUSERVE_ISA_LEVEL >= 2
  _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8((__m512i)x));
#else
  for (int l = 0; l < kLanes; l++) p[l] = static_cast<int8_t>(x[l]);
#endif
}

// acc + the sum of four products of unsigned by signed bytes in each lane; kHasByteDot only.
TAUSERVE_INLINE I DotBytes(I acc, I u, I s) {
#if TAUSERVE_ISA_LEVEL >= 3
  return (I)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)u, (__m512i)s);
#else
  (void)u, (void)s;
  return acc;
#endif
}

// 2^x to about 1e-7 relative, for x <= 127; 0 far below -126.
TAUSERVE_INLINE F Exp2(F x) {
#if TAUSERVE_ISA_LEVEL >= 2
  const F clamped = Max(x, Set1(-160.0f));
  const F n = (F)_mm512_roundscale_ps((__m512)clamped, 0);
#else
  const F clamped = Max(x, Set1(-127.0f));
  const F shifted = clamped + 12582912.0f;  // 1.5 * 2^23: rounds to the nearest integer
  const F n = shifted - 12582912.0f;
#endif
  const F f = clamped - n;
  F p = Set1(1.32647272e-3f);  // least relative error on [-1/2, 1/2]: 9.2e-8
  p = Fma(p, f, Set1(9.67151281e-3f));
  p = Fma(p, f, Set1(5.55073374e-2f));
  p = Fma(p, f, Set1(2.40222421e-1f));
  p = Fma(p, f, Set1(6.93146978e-1f));
  p = Fma(p, f, Set1(1.0f));
#if TAUSERVE_ISA_LEVEL >= 2
  return (F)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  return p * AsF((ToI(n) + 127) << 23);
#endif
}

// 2^x to about 1e-4 relative, for what is rounded to bfloat16; x <= 127, 0 far below -126.
TAUSERVE_INLINE F Exp2Rough(F x) {
#if TAUSERVE_ISA_LEVEL >= 2
  const F n = (F)_mm512_roundscale_ps((__m512)x, 0);
  const F f = x - n;
  F p = Set1(5.51716701e-2f);
  p = Fma(p, f, Set1(2.42611128e-1f));
  p = Fma(p, f, Set1(6.93260986e-1f));
  p = Fma(p, f, Set1(9.99928073e-1f));
  return (F)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  return Exp2(x);
#endif
}

// log2 of a positive normal x to about 1e-7.
TAUSERVE_INLINE F Log2(F x) {
  const I bits = AsI(x);
  // Mantissa in [sqrt(1/2), sqrt(2)).
  const I exponent = (bits - 0x3f3504f3) >> 23;
  const F m = AsF(bits - (exponent << 23));
  const F t = (m - 1.0f) / (m + 1.0f);
  const F t2 = t * t;
  F p = Set1(0.32059890f);  // 2 / ln 2 * t^(2k) / (2k + 1)
  p = Fma(p, t2, Set1(0.41219859f));
  p = Fma(p, t2, Set1(0.57707802f));
  p = Fma(p, t2, Set1(0.96179669f));
  p = Fma(p, t2, Set1(2.88539008f));
  return Fma(p, t, ToF(exponent));
}

}  // namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE

#endif  // TAUSERVE_KERNELS_CPU_SIMD_H_
