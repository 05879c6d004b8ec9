// Gather: out = sum p_j v_j, over a list of keys or over a tile of values.
// Compiled once for each instruction set; see simd.h.
#ifndef TAUSERVE_KERNELS_CPU_GATHER_H_
#define TAUSERVE_KERNELS_CPU_GATHER_H_

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

// out[r] += weights[r] . values for the tile's rows over `slots` rows of values, [slots][head_dim]; row r's weight of
// slot t at weights[r * stride + t], its output at out + r * head_dim.
template <DataType kType, int R>
inline void AddTileValues(const float* weights, int64_t stride, int slots, const std::byte* values,
                          int head_dim, float* out) {
  const int64_t row_bytes = int64_t{head_dim} * SizeOf(kType);
  for (int dim = 0; dim < head_dim; dim += kTileVectors * kLanes) {
    const int left = (head_dim - dim) / kLanes;
    if (left >= kTileVectors) {
      Tile<R> acc;
      TAUSERVE_TILE_ROWS {
        TAUSERVE_TILE_VECTORS acc[r][v] = Load(out + r * head_dim + dim + v * kLanes);
      }
      for (int t = 0; t < slots; t++) {
        F x[kTileVectors];
        TAUSERVE_TILE_VECTORS x[v] = LoadElements<kType>(values + t * row_bytes, dim + v * kLanes);
        TAUSERVE_TILE_ROWS {
          const F p = Set1(weights[r * stride + t]);
          TAUSERVE_TILE_VECTORS acc[r][v] = Fma(p, x[v], acc[r][v]);
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
      for (int t = 0; t < slots; t++) {
        const F x = LoadElements<kType>(values + t * row_bytes, at);
        TAUSERVE_TILE_ROWS acc[r] = Fma(Set1(weights[r * stride + t]), x, acc[r]);
      }
      TAUSERVE_TILE_ROWS Store(out + r * head_dim + at, acc[r]);
    }
  }
}

// The same for values that were unpacked to floats.
template <int R>
inline void AddTileValues(const float* weights, int64_t stride, int slots, const float* values,
                          int head_dim, float* out) {
  AddTileValues<DataType::kFloat32, R>(weights, stride, slots,
                                       reinterpret_cast<const std::byte*>(values), head_dim, out);
}

}  // namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE

#endif  // TAUSERVE_KERNELS_CPU_GATHER_H_
