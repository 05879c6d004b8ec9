// The small operations between the matrix products, on one row each.
// Compiled once for each instruction set; see simd.h.
#ifndef TAUSERVE_KERNELS_CPU_ELEMENTWISE_H_
#define TAUSERVE_KERNELS_CPU_ELEMENTWISE_H_

#include "kernels/backend.h"
#include "kernels/cpu/score_tile.h"

namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE {

TAUSERVE_INLINE F LoadUpTo(const float* p, int n) {
  F x{};
  __builtin_memcpy(&x, p, (n < kLanes ? n : kLanes) * 4);
  return x;
}
TAUSERVE_INLINE void StoreUpTo(float* p, F x, int n) {
  __builtin_memcpy(p, &x, (n < kLanes ? n : kLanes) * 4);
}

inline void RmsNormRow(const float* in, const float* weight, int n, float epsilon, float* out) {
  F square{};
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) square = Fma(Load(in + i), Load(in + i), square);
  float sum = ReduceAdd(square);
  for (; i < n; i++) sum += in[i] * in[i];
  const float scale = 1 / __builtin_sqrtf(sum / n + epsilon);
  for (i = 0; i + kLanes <= n; i += kLanes) Store(out + i, Load(in + i) * scale * Load(weight + i));
  for (; i < n; i++) out[i] = in[i] * scale * weight[i];
}

TAUSERVE_INLINE F Exp(F x) { return Exp2(Min(x * 1.44269504f, Set1(126.0f))); }

TAUSERVE_INLINE F Activate(Activation activation, F x) {
  if (activation == Activation::kSilu) return x / (Exp(-x) + 1.0f);
  const F y =
      x * Fma(x * x, Set1(0.0356774081f), Set1(0.797884561f));  // sqrt(2/pi) (x + 0.044715 x^3)
  const F tanh = 1.0f - 2.0f / (Exp(y * 2.0f) + 1.0f);
  return 0.5f * x * (1.0f + tanh);
}

inline void GatedActivationRow(Activation activation, const float* gate, const float* up, int n,
                               float* out) {
  for (int i = 0; i < n; i += kLanes) {
    if (i + kLanes <= n) {
      Store(out + i, Activate(activation, Load(gate + i)) * Load(up + i));
    } else {
      StoreUpTo(out + i, Activate(activation, LoadUpTo(gate + i, n - i)) * LoadUpTo(up + i, n - i),
                n - i);
    }
  }
}

// Turns the pairs (d, d + half) of one head; cos and sin [half].
inline void RopeHead(float* x, const float* cos, const float* sin, int half) {
  int d = 0;
  for (; d + kLanes <= half; d += kLanes) {
    const F a = Load(x + d), b = Load(x + half + d), c = Load(cos + d), s = Load(sin + d);
    Store(x + d, a * c - b * s);
    Store(x + half + d, b * c + a * s);
  }
  for (; d < half; d++) {
    const float a = x[d], b = x[half + d];
    x[d] = a * cos[d] - b * sin[d];
    x[half + d] = b * cos[d] + a * sin[d];
  }
}

inline void ToBf16Row(const float* in, int64_t n, uint16_t* out) {
  for (int64_t i = 0; i < n; i++) out[i] = RoundToBf16(in[i]);
}

inline void PutRow(const float* in, const float* bias, bool add, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i++) {
    out[i] = in[i] + (bias ? bias[i] : 0.0f) + (add ? out[i] : 0.0f);
  }
}

// The shadow of a full page, and its bounds.
template <DataType kType>
inline void MakeShadow(const LayerKv& kv, PageId page, int kv_head) {
  const int n = kv.head_dim;
  const std::byte* keys = kv.keys(page, kv_head);
  uint8_t* shadow = kv.shadow(page, kv_head);
  PageSummary& summary = kv.summary(page, kv_head);
  F top{};
  for (int t = 0; t < kPageTokens; t++) {
    for (int d = 0; d < n; d += kLanes) {
      const F x = LoadElements<kType>(keys + t * kv.row_bytes(), d);
      top = Max(Max(x, -x), top);
    }
  }
  const float largest = ReduceMax(top);
  summary.shadow_scale = largest > 1e-30f ? largest / 127 : 1;
  const float inverse = 1 / summary.shadow_scale;
  float error = 0, norm = 0;
  for (int t = 0; t < kPageTokens; t++) {
    float error2 = 0, norm2 = 0;
    for (int d = 0; d < n; d += kLanes) {
      const F x = LoadElements<kType>(keys + t * kv.row_bytes(), d);
      const I byte = ToOffsetByte(x, inverse);
      const F rounded = (ToF(byte) - 128.0f) * summary.shadow_scale;
      const F rest = x - rounded;
      error2 += ReduceAdd(rest * rest);
      norm2 += ReduceAdd(rounded * rounded);
      for (int l = 0; l < kLanes; l++) {
        shadow[((d + l) / 4 * kPageTokens + t) * 4 + (d + l) % 4] = static_cast<uint8_t>(byte[l]);
      }
    }
    error = !(error2 <= error) ? error2 : error;
    norm = !(norm2 <= norm) ? norm2 : norm;
  }
  summary.shadow_error = __builtin_sqrtf(error) * kNormSlack + 1e-6f * summary.key_norm;
  summary.shadow_norm = __builtin_sqrtf(norm) * kNormSlack;
}

// Writes one token's key and value of one KV head to slot `slot` of a page and keeps the page's summary; the tokens of a
// page come in order. `previous`: the page before it in its sequence, -1 for none.
inline void AppendToken(const LayerKv& kv, PageId previous, PageId page, int slot, int kv_head,
                        const float* key, const float* value) {
  std::byte* keys = kv.keys(page, kv_head) + slot * kv.row_bytes();
  std::byte* values = keys + kv.block_bytes();
  float square = 0;
  if (kv.type == DataType::kBFloat16) {
    uint16_t* k = reinterpret_cast<uint16_t*>(keys);
    uint16_t* v = reinterpret_cast<uint16_t*>(values);
    for (int d = 0; d < kv.head_dim; d++) {
      k[d] = RoundToBf16(key[d]);
      v[d] = RoundToBf16(value[d]);
      square += FromBf16(k[d]) * FromBf16(k[d]);
    }
  } else {
    __builtin_memcpy(keys, key, kv.row_bytes());
    __builtin_memcpy(values, value, kv.row_bytes());
    for (int d = 0; d < kv.head_dim; d++) square += key[d] * key[d];
  }
  const float norm = square < 3e38f ? __builtin_sqrtf(square) * kNormSlack : __builtin_inff();
  PageSummary& summary = kv.summary(page, kv_head);
  if (slot == 0) {
    summary.key_norm = 0;
    summary.prefix_norm = previous < 0 ? 0 : kv.summary(previous, kv_head).prefix_norm;
  }
  if (norm > summary.key_norm) summary.key_norm = norm;
  if (norm > summary.prefix_norm) summary.prefix_norm = norm;
  if (!kv.has_shadow || slot != kPageTokens - 1) return;
  if (kv.type == DataType::kBFloat16) {
    MakeShadow<DataType::kBFloat16>(kv, page, kv_head);
  } else {
    MakeShadow<DataType::kFloat32>(kv, page, kv_head);
  }
}

}  // namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE

#endif  // TAUSERVE_KERNELS_CPU_ELEMENTWISE_H_
