// Cuts a workspace into arrays. With no memory it measures.
#ifndef TAUSERVE_KERNELS_CUDA_WORKSPACE_H_
#define TAUSERVE_KERNELS_CUDA_WORKSPACE_H_

#include <cstddef>
#include <cstdint>

namespace tauserve::cuda {

class Workspace {
 public:
  explicit Workspace(void* begin) : begin_(static_cast<char*>(begin)) {}

  // The next `count` elements, 256-byte aligned as the workspace is.
  template <typename T>
  T* Take(int64_t count) {
    T* const at = reinterpret_cast<T*>(begin_ + bytes_);
    bytes_ += (count * sizeof(T) + 255) / 256 * 256;
    return at;
  }
  size_t bytes() const { return bytes_; }  // taken so far

 private:
  char* begin_;
  size_t bytes_ = 0;
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_WORKSPACE_H_
