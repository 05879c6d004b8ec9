// The paged KV cache on the GPU: one allocation, laid out as kernels/cuda/attention_args.h says, with the int8 shadow of
// the keys.
#ifndef TAUSERVE_KERNELS_CUDA_KV_CACHE_H_
#define TAUSERVE_KERNELS_CUDA_KV_CACHE_H_

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention_args.h"
#include "kernels/layer_specs.h"
#include "kernels/tensor.h"

namespace tauserve::cuda {

// One layer's part of the cache.
struct LayerKv {
  __nv_bfloat16* keys = nullptr;
  __nv_bfloat16* values = nullptr;
  int8_t* shadow = nullptr;
  ShadowScale* shadow_scale = nullptr;
};

// Of one page and layer, and where a layer's parts lie in it: sizes of [pages][kv_heads][64][head_dim] arrays.
struct KvLayout {
  KvCacheSpec spec;

  int64_t slots() const { return int64_t{spec.num_pages} * spec.num_kv_heads * kPageTokens; }
  int64_t layer_bytes() const { return slots() * SlotBytes(spec); }
  int64_t bytes() const { return layer_bytes() * spec.num_layers; }
  // The parts of layer `layer` in a cache that begins at `data`.
  LayerKv layer(std::byte* data, int layer) const;

  static int64_t SlotBytes(const KvCacheSpec& spec) {
    return spec.head_dim * int64_t{2 * sizeof(__nv_bfloat16) + 1} + int64_t{sizeof(ShadowScale)};
  }
};

// What an append writes: a row of the step's keys and values to its slot.
struct AppendArgs {
  LayerKv kv;
  int num_kv_heads = 0;
  int head_dim = 0;
  Matrix keys;                        // [rows, num_kv_heads * head_dim]
  Matrix values;                      // the same
  const int32_t* row_slot = nullptr;  // [rows]: page * kPageTokens + place in it
};

void AppendRows(const AppendArgs& args, cudaStream_t stream);

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_KV_CACHE_H_
