#include "kernels/cuda/device.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/elementwise.h"

namespace tauserve::cuda {
namespace {

absl::Status Refuse(const std::string& why) {
  cudaGetLastError();  // not sticky: forget it
  return absl::FailedPreconditionError(absl::StrCat("device cuda: ", why));
}

std::string VersionName(int version) {
  return absl::StrCat(version / 1000, ".", version % 1000 / 10);
}

}  // namespace

absl::StatusOr<GpuProperties> OpenGpu() {
  int driver = 0, runtime = 0, count = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0) return Refuse("there is no NVIDIA driver (libcuda.so.1) on this machine");
  const cudaError_t counted = cudaGetDeviceCount(&count);
  if (counted == cudaErrorInsufficientDriver || driver / 1000 < runtime / 1000) {
    return Refuse(absl::StrCat("the driver is too old: it supports CUDA ", VersionName(driver),
                               ", this build needs ", runtime / 1000, ".0 or later"));
  }
  if (counted == cudaErrorNoDevice || (counted == cudaSuccess && count == 0)) {
    return Refuse("there is no NVIDIA GPU on this machine, or CUDA_VISIBLE_DEVICES hides it");
  }
  if (counted != cudaSuccess) return Refuse(cudaGetErrorString(counted));
  cudaDeviceProp p;
  cudaError_t opened = cudaSetDevice(0);
  if (opened == cudaSuccess) opened = cudaGetDeviceProperties(&p, 0);
  if (opened == cudaSuccess) opened = cudaFree(nullptr);  // makes the context
  if (opened != cudaSuccess) {
    return Refuse(absl::StrCat("the GPU can't be opened: ", cudaGetErrorString(opened)));
  }
  const std::string name = absl::StrCat(p.name, ", compute capability ", p.major, ".", p.minor);
  if (p.major < 8) return Refuse(absl::StrCat(name, ": 8.0 or later is needed"));
  if (!HasDeviceCode()) {
    return Refuse(absl::StrCat(name, ": this build has no code for it (TAUSERVE_CUDA_GENCODE)"));
  }
  return GpuProperties{p.name, p.major, p.minor, p.multiProcessorCount};
}

absl::Status KeptCudaStatus() {
  const CudaError& e = FirstCudaError();
  if (e.code == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("cuda: ", cudaGetErrorString(e.code), " (",
                                          cudaGetErrorName(e.code), ") at ", e.file, ":", e.line,
                                          ": ", e.call));
}

std::string Gigabytes(int64_t bytes) { return absl::StrFormat("%.2f GB", bytes * 1e-9); }

GpuBuffer::GpuBuffer(size_t bytes, Kind kind) : size_(bytes), kind_(kind) {
  if (bytes == 0) return;
  const cudaError_t error =
      kind == Kind::kDevice ? cudaMalloc(&data_, bytes) : cudaHostAlloc(&data_, bytes, 0);
  if (error == cudaSuccess) return;
  data_ = nullptr;
  cudaGetLastError();
  if (error != cudaErrorMemoryAllocation) CUDA_CHECK(error);
}

GpuBuffer::~GpuBuffer() {
  if (data_ == nullptr) return;
  if (kind_ == Kind::kDevice) {
    cudaFree(data_);
  } else {
    cudaFreeHost(data_);
  }
}

GpuBuffer& GpuBuffer::operator=(GpuBuffer&& other) noexcept {
  std::swap(size_, other.size_);
  std::swap(kind_, other.kind_);
  std::swap(data_, other.data_);
  return *this;
}

absl::Status NeedMemory(const GpuBuffer& buffer, const std::string& what,
                        const std::string& advice) {
  if (buffer.size() == 0 || buffer.as<char>() != nullptr) return absl::OkStatus();
  size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  return absl::ResourceExhaustedError(
      absl::StrCat("device cuda: out of memory: ", what, " needs ", Gigabytes(buffer.size()), ", ",
                   Gigabytes(free), " of the GPU's ", Gigabytes(total), " are free; ", advice));
}

void Upload(void* to, const void* from, size_t bytes) {
  CUDA_CHECK(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice));
  CUDA_CHECK(cudaStreamSynchronize(nullptr));
}

}  // namespace tauserve::cuda
