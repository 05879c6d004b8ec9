// Plain views on weights and activations, shared by every backend. Nothing here owns memory.
#ifndef TAUSERVE_KERNELS_TENSOR_H_
#define TAUSERVE_KERNELS_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tauserve {

enum class DataType : uint8_t { kFloat32, kBFloat16, kFloat16 };

constexpr size_t SizeOf(DataType type) { return type == DataType::kFloat32 ? 4 : 2; }
constexpr const char* NameOf(DataType type) {
  return type == DataType::kFloat32    ? "float32"
         : type == DataType::kBFloat16 ? "bfloat16"
                                       : "float16";
}

// A row-major tensor in host memory, for example a weight in a mapped file. `data` may be unaligned.
struct HostTensor {
  const void* data = nullptr;
  DataType type = DataType::kFloat32;
  std::vector<int64_t> shape;

  int64_t size() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
};

// Activations: `rows` x `cols` in the backend's activation type (float32 on the CPU), in device memory.
// Row r starts at element r * stride of `data`; stride >= cols.
struct Matrix {
  void* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;
};

}  // namespace tauserve

#endif  // TAUSERVE_KERNELS_TENSOR_H_
