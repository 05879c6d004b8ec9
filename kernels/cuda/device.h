// The GPU: finding one that this build has code for, its memory and its stream.
#ifndef TAUSERVE_KERNELS_CUDA_DEVICE_H_
#define TAUSERVE_KERNELS_CUDA_DEVICE_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace tauserve::cuda {

struct GpuProperties {
  std::string name;  // "NVIDIA H100 80GB HBM3"
  int major = 0;     // compute capability
  int minor = 0;
  int multiprocessors = 0;
};

// Makes the first visible GPU the thread's. FailedPrecondition, with what is there and what is needed: no driver, a
// driver older than CUDA 13, no GPU, a compute capability below 8.0, or one that this build has no code for.
absl::StatusOr<GpuProperties> OpenGpu();

// The first error of this thread (cuda_check.h), as Internal; OK where there was none.
absl::Status KeptCudaStatus();

// "12.3 GB"
std::string Gigabytes(int64_t bytes);

// Memory of the device, or pinned memory of the host; data() is nullptr where there was none left.
class GpuBuffer : public DeviceBuffer {
 public:
  enum class Kind { kDevice, kPinned };
  explicit GpuBuffer(size_t bytes = 0, Kind kind = Kind::kDevice);
  ~GpuBuffer() override;
  GpuBuffer(GpuBuffer&& other) noexcept { *this = static_cast<GpuBuffer&&>(other); }
  GpuBuffer& operator=(GpuBuffer&& other) noexcept;

  void* data() override { return data_; }
  size_t size() const override { return size_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  size_t size_ = 0;
  Kind kind_ = Kind::kDevice;
  void* data_ = nullptr;
};

// ResourceExhausted where `buffer` has no memory: what for, how much was needed and is free, and `advice`.
absl::Status NeedMemory(const GpuBuffer& buffer, const std::string& what,
                        const std::string& advice);

// Copies from the host, and returns when it has arrived: cudaMemcpy from pageable memory may return before, and streams that
// don't block others don't wait for it.
void Upload(void* to, const void* from, size_t bytes);

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_DEVICE_H_
