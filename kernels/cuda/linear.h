// Linear layers: weights on the device, and the choice between our kernel for few rows (skinny_linear.h) and cuBLASLt.
#ifndef TAUSERVE_KERNELS_CUDA_LINEAR_H_
#define TAUSERVE_KERNELS_CUDA_LINEAR_H_

#include <cuda_runtime.h>

#include <memory>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cuda/cublaslt_linear.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/linear_args.h"

namespace tauserve::cuda {

class GpuLinear : public LinearWeight {
 public:
  GpuLinear(int64_t in, int64_t out, bool bias);
  int64_t in_features() const override { return in_; }
  int64_t out_features() const override { return out_; }

 private:
  friend class LinearEngine;
  int64_t in_;
  int64_t out_;
  GpuBuffer weight_;      // bfloat16 [out][in]
  GpuBuffer bias_;        // bfloat16 [out], or empty
  GpuBuffer float_bias_;  // the same in float32: the library wants the output's type
};

// Copies a host tensor to device memory as bfloat16; returns when the copy is done.
void UploadAsBFloat16(const HostTensor& tensor, void* to);

class LinearEngine {
 public:
  // Makes the library's handle and the workspaces.
  absl::Status Open();
  // As Backend::LoadLinear. The status says if there was no memory; the weight has its shape all the same.
  std::unique_ptr<GpuLinear> Load(absl::Span<const HostTensor> weights,
                                  absl::Span<const HostTensor> biases, absl::Status* status);
  // out = in * weight^T + bias, plus what `out` holds where `add`. `out` is of type `out_type`.
  void Run(const GpuLinear& weight, Matrix in, bool add, Matrix out, DataType out_type,
           cudaStream_t stream);
  // out = act(gate) * up, where in * weight^T + bias is gate, then up. `gate_up` may be used for them.
  void RunGated(const GpuLinear& weight, Activation activation, Matrix in, Matrix gate_up,
                Matrix out, cudaStream_t stream);

 private:
  static LinearArgs ArgsOf(const GpuLinear& weight, Matrix in, Matrix out, DataType out_type);

  CublasLtLinear cublaslt_;
  GpuBuffer cublaslt_workspace_, skinny_workspace_;
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_LINEAR_H_
