// Linear layers by cuBLASLt: bfloat16 operands, float32 sums, bias in the epilogue. The fastest algorithm by the
// library's heuristics is asked for once a shape and kept.
#ifndef TAUSERVE_KERNELS_CUDA_CUBLASLT_LINEAR_H_
#define TAUSERVE_KERNELS_CUDA_CUBLASLT_LINEAR_H_

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <compare>
#include <cstddef>
#include <map>
#include <memory>

#include "kernels/cuda/linear_args.h"

namespace tauserve::cuda {

inline constexpr size_t kCublasLtWorkspaceBytes = 32 << 20;  // what the library recommends on sm_90

class CublasLtLinear {
 public:
  CublasLtLinear();
  ~CublasLtLinear();
  CublasLtLinear(const CublasLtLinear&) = delete;
  CublasLtLinear& operator=(const CublasLtLinear&) = delete;

  // Makes the library's handle; false, with the error kept (cuda_check.h), where it can't.
  bool Open();
  // Any product that isn't gated. `workspace`: kCublasLtWorkspaceBytes of device memory.
  void Run(const LinearArgs& args, void* workspace, cudaStream_t stream);

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
  std::map<Shape, std::unique_ptr<Product>> products_;
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_CUBLASLT_LINEAR_H_
