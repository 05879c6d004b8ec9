// Gather: out = sum p_j v_j, over a list of keys or over a tile of values.
// Compiled once for each instruction set; see simd.h.
#ifndef TAUSERVE_KERNELS_CPU_GATHER_H_
#define TAUSERVE_KERNELS_CPU_GATHER_H_

#include <type_traits>

#include "kernels/cpu/score_tile.h"

namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE {

// Adds weight[i] times the value of key[i], i < n, to out[head_dim].
template <DataType kType>
inline void GatherValues(const AttentionCall& call, const AttentionTask& task, const float* weight,
                         const int32_t* key, int n, float* out) {
  constexpr int kGroup = 4;  // registers of output a pass
  const int head_dim = call.kv.head_dim;
  for (int dim = 0; dim < head_dim; dim += kGroup * kLanes) {
    F acc[kGroup] = {};
    const int left = (head_dim - dim) / kLanes;  // head_dim is a multiple of 16
    if (left >= kGroup) {
      for (int i = 0; i < n; i++) {
        const std::byte* value = ValueRow(call, task, key[i]);
        const F p = Set1(weight[i]);
        _Pragma("GCC unroll 4") for (int g = 0; g < kGroup; g++) {
          acc[g] = Fma(p, LoadElements<kType>(value, dim + g * kLanes), acc[g]);
        }
      }
    } else {
      for (int i = 0; i < n; i++) {
        const std::byte* value = ValueRow(call, task, key[i]);
        const F p = Set1(weight[i]);
        for (int g = 0; g < left; g++) {
          acc[g] = Fma(p, LoadElements<kType>(value, dim + g * kLanes), acc[g]);
        }
      }
    }
    for (int g = 0; g < (left < kGroup ? left : kGroup); g++) {
      Store(out + dim + g * kLanes, Load(out + dim + g * kLanes) + acc[g]);
    }
  }
}

// Weights and rows of values to be multiplied, one row of values a step: weight of row r at weights[r * stride + t], value
// rows [steps][head_dim].
template <DataType kType>
struct ValueRows {
  using Element = F;
  const float* weights;
  int64_t stride;
  const std::byte* values;
  int head_dim;

  F Weight(int r, int t) const { return Set1(weights[r * stride + t]); }
  F Value(int t, int d) const {
    return LoadElements<kType>(values + int64_t{t} * head_dim * SizeOf(kType), d);
  }
  static F Add(F weight, F value, F acc) { return Fma(weight, value, acc); }
};

// The same in bfloat16, two rows a step: values as pairs, [steps][head_dim] (pack.h); kPaired only.
struct ValuePairs {
  using Element = I;
  const uint16_t* weights;
  int64_t stride;
  const int32_t* values;
  int head_dim;

  I Weight(int r, int t) const {
    int32_t pair;
    __builtin_memcpy(&pair, weights + r * stride + 2 * t, 4);
    return Set1(pair);
  }
  I Value(int t, int d) const { return LoadI(values + t * head_dim + d); }
  static F Add(I weight, I value, F acc) { return DotPairs(acc, weight, value); }
};

// out[r] += weights[r] . values for a tile of R rows; row r's output at out + r * head_dim.
template <int R, typename Rows>
inline void AddTileValues(const Rows& rows, int steps, float* out) {
  using Element = typename Rows::Element;
  const int head_dim = rows.head_dim;
  for (int dim = 0; dim < head_dim; dim += kTileVectors * kLanes) {
    const int left = (head_dim - dim) / kLanes;
    if (left >= kTileVectors) {
      Tile<R> acc;
      TAUSERVE_TILE_ROWS {
        TAUSERVE_TILE_VECTORS acc[r][v] = Load(out + r * head_dim + dim + v * kLanes);
      }
      for (int t = 0; t < steps; t++) {
        Element x[kTileVectors];
        TAUSERVE_TILE_VECTORS x[v] = rows.Value(t, dim + v * kLanes);
        TAUSERVE_TILE_ROWS {
          const Element p = rows.Weight(r, t);
          TAUSERVE_TILE_VECTORS acc[r][v] = Rows::Add(p, x[v], acc[r][v]);
        }
      }
      TAUSERVE_TILE_ROWS {
        TAUSERVE_TILE_VECTORS Store(out + r * head_dim + dim + v * kLanes, acc[r][v]);
      }
      continue;
    }
    for (int g = 0; g < left; g++) {
      const int at = dim + g * kLanes;
      F acc[R];
      TAUSERVE_TILE_ROWS acc[r] = Load(out + r * head_dim + at);
      for (int t = 0; t < steps; t++) {
        const Element x = rows.Value(t, at);
        TAUSERVE_TILE_ROWS acc[r] = Rows::Add(rows.Weight(r, t), x, acc[r]);
      }
      TAUSERVE_TILE_ROWS Store(out + r * head_dim + at, acc[r]);
    }
  }
}

// Weights as a product reads them.
template <bool kPairs>
using Weight = std::conditional_t<kPairs, uint16_t, float>;

TAUSERVE_INLINE void StoreWeights(float* p, F x) { Store(p, x); }
TAUSERVE_INLINE void StoreWeights(uint16_t* p, F x) { StoreRounded(p, x); }

// The same over `slots` rows of packed values (PackValues of pack.h).
template <bool kPairs, int R>
inline void AddPackedValues(const Weight<kPairs>* weights, int64_t stride, int slots,
                            const void* values, int head_dim, float* out) {
  if constexpr (kPairs) {
    const ValuePairs rows = {weights, stride, static_cast<const int32_t*>(values), head_dim};
    AddTileValues<R>(rows, (slots + 1) / 2, out);
  } else {
    const ValueRows<DataType::kFloat32> rows = {weights, stride,
                                                static_cast<const std::byte*>(values), head_dim};
    AddTileValues<R>(rows, slots, out);
  }
}

}  // namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE

#endif  // TAUSERVE_KERNELS_CPU_GATHER_H_
