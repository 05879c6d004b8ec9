// What the checks of single kernels share: calls of CUDA that must work, and device memory with an owner.
#ifndef TAUSERVE_TESTS_GPU_DEVICE_MEMORY_H_
#define TAUSERVE_TESTS_GPU_DEVICE_MEMORY_H_

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#include "kernels/cuda/cuda_check.h"

namespace tauserve::cuda {

// Ends the program at this call's error, or at one that a kernel's launch kept before.
inline void RequireCuda(cudaError_t error, const char* file, int line) {
  if (error == cudaSuccess) error = FirstCudaError().code;
  if (error == cudaSuccess) return;
  std::printf("%s:%d: %s\n", file, line, cudaGetErrorString(error));
  std::exit(2);
}
#define REQUIRE_CUDA(call) ::tauserve::cuda::RequireCuda((call), __FILE__, __LINE__)

// Device memory, freed with its owner.
template <typename T>
class DeviceArray {
 public:
  DeviceArray() = default;
  explicit DeviceArray(size_t n) : size_(n) {
    REQUIRE_CUDA(cudaMalloc(&data_, sizeof(T) * (n ? n : 1)));
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray(DeviceArray&& other) noexcept { *this = std::move(other); }
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~DeviceArray() { cudaFree(data_); }

  T* get() const { return data_; }
  size_t size() const { return size_; }
  void Set(const std::vector<T>& from) {
    REQUIRE_CUDA(cudaMemcpy(data_, from.data(), sizeof(T) * from.size(), cudaMemcpyHostToDevice));
  }
  std::vector<T> Get() const {
    std::vector<T> to(size_);
    REQUIRE_CUDA(cudaMemcpy(to.data(), data_, sizeof(T) * size_, cudaMemcpyDeviceToHost));
    return to;
  }
  void Fill(int byte) { REQUIRE_CUDA(cudaMemset(data_, byte, sizeof(T) * size_)); }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_TESTS_GPU_DEVICE_MEMORY_H_
