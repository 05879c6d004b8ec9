// What the attention kernels take: one plain struct of device pointers, made anew by the backend for every layer of a
// step (members that don't change between layers are copied). kernels/attention.h states what is computed.
#ifndef TAUSERVE_KERNELS_CUDA_ATTENTION_ARGS_H_
#define TAUSERVE_KERNELS_CUDA_ATTENTION_ARGS_H_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/cuda/kept_support.h"
#include "kernels/cuda/slice.h"

namespace tauserve::cuda {

// The int8 shadow of one key: k = scale * code + rest, |rest| <= rest_norm. Both are rounded up.
struct ShadowScale {
  __half scale;
  __half rest_norm;
};

// Element: of queries, output and pages. Serving's is bfloat16; training has float16, too.
template <typename Element>
struct AttentionArgsOf {
  // Queries and output: element (row, head, d) at row * stride + head * head_dim + d; 16-byte aligned rows.
  const Element* q = nullptr;
  int64_t q_stride = 0;
  Element* out = nullptr;
  int64_t out_stride = 0;
  const float* query_scale = nullptr;  // [rows][num_heads] at row * query_scale_stride; nullptr = 1
  int64_t query_scale_stride = 0;

  // The layer's pages, each [num_pages][num_kv_heads][kPageTokens][head_dim]; unused slots may hold anything, NaN too.
  const Element* keys = nullptr;
  const Element* values = nullptr;
  const int8_t* shadow = nullptr;             // as keys; nullptr where the cache keeps none
  const ShadowScale* shadow_scale = nullptr;  // [num_pages][num_kv_heads][kPageTokens]
  // [num_pages][num_kv_heads], at least |k| of each used key of the page; nullptr = none, then an ALiBi slope skips no page.
  const float* page_key_norms = nullptr;
  int num_pages = 0;  // of the pool

  const int32_t* page_table = nullptr;  // all slices' page tables, one behind the other
  const Slice* slices = nullptr;        // [num_slices]
  const Slice* host_slices = nullptr;   // the same in host memory, for planning
  int num_slices = 0;
  int num_rows = 0;  // of the step

  const Head* heads = nullptr;       // [num_heads]
  const Head* host_heads = nullptr;  // the same in host memory
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  float scale = 1;
  int sliding_window = 0;  // 0 = none
  bool causal = true;

  AttentionStats* stats =
      nullptr;  // [num_slices]; kernels add to it with atomics (64-bit integers and doubles)

  KeptSupport kept;  // for a backward pass; only PrefillSm90 fills it

  void* workspace =
      nullptr;  // scratch of this launch; as large as the kernel's *WorkspaceBytes said
  size_t workspace_bytes = 0;
  cudaStream_t stream = nullptr;
};
using AttentionArgs = AttentionArgsOf<__nv_bfloat16>;

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_ATTENTION_ARGS_H_
