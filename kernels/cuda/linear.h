// Linear layers by cuBLASLt: bfloat16 operands, float32 sums, bias in the epilogue. The fastest algorithm by the
// library's heuristics is asked for once a shape and kept.
#ifndef TAUSERVE_KERNELS_CUDA_LINEAR_H_
#define TAUSERVE_KERNELS_CUDA_LINEAR_H_

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <map>
#include <memory>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cuda/device.h"

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
  LinearEngine();
  ~LinearEngine();
  LinearEngine(const LinearEngine&) = delete;
  LinearEngine& operator=(const LinearEngine&) = delete;

  // Makes the library's handle and its workspace.
  absl::Status Open();
  // As Backend::LoadLinear. The status says if there was no memory; the weight has its shape all the same.
  std::unique_ptr<GpuLinear> Load(absl::Span<const HostTensor> weights,
                                  absl::Span<const HostTensor> biases, absl::Status* status);
  // out = in * weight^T + bias, plus what `out` holds where `add`. `out` is of type `out_type`.
  void Run(const GpuLinear& weight, Matrix in, bool add, Matrix out, DataType out_type,
           cudaStream_t stream);

 private:
  // What the choice of an algorithm depends on.
  struct Shape {
    int64_t rows, in, out, in_stride, out_stride;
    int in_alignment, out_alignment;  // of the pointers, in bytes
    bool bias, add;
    DataType out_type;
    auto operator<=>(const Shape&) const = default;
  };
  struct Product;
  Product& ProductOf(const Shape& shape);

  cublasLtHandle_t handle_ = nullptr;
  GpuBuffer workspace_;
  std::map<Shape, std::unique_ptr<Product>> products_;
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_LINEAR_H_
