// The tensor map by which Hopper's copy engine reads a pool of pages.
#ifndef TAUSERVE_KERNELS_CUDA_PAGE_MAP_H_
#define TAUSERVE_KERNELS_CUDA_PAGE_MAP_H_

#include <cuda.h>

#include "kernels/check.h"
#include "kernels/cuda/attention_args.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/element_pair.cuh"

namespace tauserve::cuda {

using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                                 const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                                 const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                                 CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

inline EncodeTiled FindEncodeTiled() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result;
  CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                              cudaEnableDefault, &result));
  return reinterpret_cast<EncodeTiled>(function);
}

// A pool of pages as a matrix of token rows, read in boxes of a page and 64 columns (missing columns read as zero).
template <typename Element>
CUtensorMap PageMap(const Element* pool, const AttentionArgsOf<Element>& args) {
  static const EncodeTiled encode = FindEncodeTiled();
  CUtensorMap map;
  const cuuint64_t dims[2] = {
      static_cast<cuuint64_t>(args.head_dim),
      static_cast<cuuint64_t>(args.num_pages) * args.num_kv_heads * kPageTokens};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(args.head_dim) * 2};
  const cuuint32_t box[2] = {64, kPageTokens};
  const cuuint32_t element_strides[2] = {1, 1};
  constexpr CUtensorMapDataType kType =
      kIsFloat16<Element> ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const CUresult result =
      encode(&map, kType, 2, const_cast<Element*>(pool), dims, strides, box, element_strides,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  TAUSERVE_CHECK(result == CUDA_SUCCESS, "tensor map");
  return map;
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_PAGE_MAP_H_
