// Gather: out = sum p_j v_j, over a list of keys or over whole pages.
// Compiled once for each instruction set; see simd.h.
#ifndef TAUSERVE_KERNELS_CPU_GATHER_H_
#define TAUSERVE_KERNELS_CPU_GATHER_H_

#include "kernels/cpu/score_tile.h"

namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE {

// Dims [dim, dim + kLanes) of the value in slot `slot` of a page's value block.
template <DataType kType>
TAUSERVE_INLINE F LoadValue(const std::byte* values, int head_dim, int slot, int dim) {
  if constexpr (kType == DataType::kBFloat16) {
    const I pair = LoadI(values + (int64_t{slot / 2} * head_dim + dim) * 4);
    return AsF(slot & 1 ? pair & static_cast<int32_t>(0xffff0000) : pair << 16);
  } else {
    return Load(reinterpret_cast<const float*>(values) + int64_t{slot} * head_dim + dim);
  }
}

// Adds weight[i] times the value of key[i], i < n, to out[head_dim].
template <DataType kType>
inline void GatherValues(const LayerKv& kv, const PageId* pages, int kv_head, const float* weight,
                         const int32_t* key, int n, float* out) {
  constexpr int kGroup = 4;  // registers of output a pass
  for (int dim = 0; dim < kv.head_dim; dim += kGroup * kLanes) {
    F acc[kGroup] = {};
    const int left = (kv.head_dim - dim) / kLanes;  // head_dim is a multiple of 16
    const int groups = left < kGroup ? left : kGroup;
    for (int i = 0; i < n; i++) {
      const std::byte* values = kv.values(pages[key[i] / kPageTokens], kv_head);
      const F p = Set1(weight[i]);
      if (groups == kGroup) {
        _Pragma("GCC unroll 4") for (int g = 0; g < kGroup; g++) {
          acc[g] =
              Fma(p, LoadValue<kType>(values, kv.head_dim, key[i] % kPageTokens, dim + g * kLanes),
                  acc[g]);
        }
      } else {
        for (int g = 0; g < groups; g++) {
          acc[g] =
              Fma(p, LoadValue<kType>(values, kv.head_dim, key[i] % kPageTokens, dim + g * kLanes),
                  acc[g]);
        }
      }
    }
    for (int g = 0; g < groups; g++) {
      Store(out + dim + g * kLanes, Load(out + dim + g * kLanes) + acc[g]);
    }
  }
}

// out[r] += weights[r] . values for the tile's rows over the first `slots` slots of a page (those behind
// may hold anything); row r's weight of slot t at weights[r * stride + t], its output at out + r * head_dim.
template <DataType kType, int R>
inline void AddPageValues(const float* weights, int64_t stride, int slots, const std::byte* values,
                          int head_dim, float* out) {
  constexpr int kGroup = kTileVectors;
  for (int dim = 0; dim < head_dim; dim += kGroup * kLanes) {
    const int left = (head_dim - dim) / kLanes;
    if (left >= kGroup) {
      Tile<R> acc;
      TAUSERVE_TILE_ROWS {
        TAUSERVE_TILE_VECTORS acc[r][v] = Load(out + r * head_dim + dim + v * kLanes);
      }
      for (int t = 0; t < slots; t++) {
        F x[kGroup];
        TAUSERVE_TILE_VECTORS x[v] = LoadValue<kType>(values, head_dim, t, dim + v * kLanes);
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
        const F x = LoadValue<kType>(values, head_dim, t, at);
        TAUSERVE_TILE_ROWS acc[r] = Fma(Set1(weights[r * stride + t]), x, acc[r]);
      }
      TAUSERVE_TILE_ROWS Store(out + r * head_dim + at, acc[r]);
    }
  }
}

}  // namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE

#endif  // TAUSERVE_KERNELS_CPU_GATHER_H_
