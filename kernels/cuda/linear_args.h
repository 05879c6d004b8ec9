// What a linear layer multiplies, in device memory: out = in * weight^T + bias.
#ifndef TAUSERVE_KERNELS_CUDA_LINEAR_ARGS_H_
#define TAUSERVE_KERNELS_CUDA_LINEAR_ARGS_H_

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/layer_specs.h"
#include "kernels/tensor.h"

namespace tauserve::cuda {

struct LinearArgs {
  const __nv_bfloat16* weight = nullptr;  // [out_features][in.cols]
  int64_t out_features = 0;
  const __nv_bfloat16* bias = nullptr;  // [out_features], or nullptr
  const float* float_bias = nullptr;    // the same
  Matrix in;
  Matrix out;                               // [in.rows, out_features]
  DataType out_type = DataType::kBFloat16;  // or float32
  bool add = false;                         // to what `out` holds
  // Gated: the first half of the weight makes gates, the second what they multiply; `out` has half as many columns.
  bool gated = false;
  Activation activation = Activation::kSilu;
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_LINEAR_ARGS_H_
