// The paged KV cache on the GPU: one allocation, laid out as kernels/cuda/attention_args.h says, with the int8 shadow
// of the keys.
#ifndef TAUSERVE_KERNELS_CUDA_KV_CACHE_H_
#define TAUSERVE_KERNELS_CUDA_KV_CACHE_H_

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "kernels/attention.h"
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
  float* page_key_norms = nullptr;
};

// The layers' keys, values, shadows and scales, one layer behind the other, then the norms of all.
struct KvLayout {
  KvCacheSpec spec;

  int64_t blocks() const { return int64_t{spec.num_pages} * spec.num_kv_heads; }
  int64_t slots() const { return blocks() * kPageTokens; }
  int64_t layer_bytes() const { return slots() * SlotBytes(spec); }
  int64_t bytes() const { return (layer_bytes() + blocks() * NormBytes()) * spec.num_layers; }
  float* norms(std::byte* data) const {
    return reinterpret_cast<float*>(data + spec.num_layers * layer_bytes());
  }
  // The parts of layer `layer` in a cache that begins at `data`.
  LayerKv layer(std::byte* data, int layer) const;

  static int64_t SlotBytes(const KvCacheSpec& spec) {
    return spec.head_dim * int64_t{2 * sizeof(__nv_bfloat16) + 1} + int64_t{sizeof(ShadowScale)};
  }
  static int64_t NormBytes() { return sizeof(float); }
  static int64_t PageBytes(const KvCacheSpec& spec) {
    return int64_t{spec.num_layers} * spec.num_kv_heads *
           (kPageTokens * SlotBytes(spec) + NormBytes());
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

// In any order of tokens; pages whose first slot is written must be begun before.
void AppendRows(const AppendArgs& args, cudaStream_t stream);

// In all layers; in any order, so that no page may be both copied and written.
void CopyPagesOf(const KvLayout& layout, std::byte* data, absl::Span<const PageCopy> copies,
                 cudaStream_t stream);

// Forgets what `pages` (device memory) held, in all layers.
void BeginPages(const KvLayout& layout, std::byte* data, const int32_t* pages, int num_pages,
                cudaStream_t stream);

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_KV_CACHE_H_
