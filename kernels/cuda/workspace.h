// Cuts a workspace into arrays. With no memory it measures.
#ifndef TAUSERVE_KERNELS_CUDA_WORKSPACE_H_
#define TAUSERVE_KERNELS_CUDA_WORKSPACE_H_

#include <cstddef>
#include <cstdint>

namespace tauserve::cuda {

class Workspace {
 public:
  static constexpr int kAlignment = 256;

  explicit Workspace(void* begin) : begin_(static_cast<char*>(begin)) {}

  // The next `count` elements, a multiple of kAlignment bytes behind the workspace's begin.
  template <typename T>
  T* Take(int64_t count) {
    T* const at = reinterpret_cast<T*>(begin_ + bytes_);
    bytes_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return at;
  }
  size_t bytes() const { return bytes_; }  // taken so far

 private:
  char* begin_;
  size_t bytes_ = 0;
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_WORKSPACE_H_
