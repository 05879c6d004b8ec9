#include "kernels/cuda/cuda_backend.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/cuda_plugin.h"
#include "kernels/host_floats.h"

namespace tauserve::cuda {
namespace {

constexpr char kLessActivations[] =
    "a smaller --max_batched_tokens needs less, and so does a smaller model";

absl::Status CheckType(const char* flag, std::optional<DataType> type) {
  if (!type || *type == DataType::kBFloat16) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("device cuda: --", flag, " is ", NameOf(*type),
                                                 ", it computes in bfloat16 only"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CudaBackend::Create(const BackendOptions& options) {
  if (absl::Status s = CheckType("dtype", options.compute_type); !s.ok()) return s;
  if (absl::Status s = CheckType("kv_dtype", options.kv_type); !s.ok()) return s;
  absl::StatusOr<GpuProperties> gpu = OpenGpu();
  if (!gpu.ok()) return gpu.status();
  std::unique_ptr<CudaBackend> backend(new CudaBackend(*gpu));
  if (absl::Status s = backend->linear_.Open(); !s.ok()) return s;
  if (absl::Status s = backend->status(); !s.ok()) return s;
  return backend;
}

CudaBackend::CudaBackend(const GpuProperties& gpu) {
  device_.name = absl::StrCat("cuda (", gpu.name, ", sm_", gpu.major, gpu.minor, ")");
  multiprocessors_ = gpu.multiprocessors;
  device_.native_bf16 = true;
  device_.own_memory = true;
  FirstCudaError() = {};
  CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
}

CudaBackend::~CudaBackend() {
  if (stream_ == nullptr) return;
  cudaStreamSynchronize(stream_);
  cudaStreamDestroy(stream_);
}

void CudaBackend::Keep(const absl::Status& status) {
  if (status_.ok()) status_ = status;
}

absl::Status CudaBackend::status() const { return status_.ok() ? KeptCudaStatus() : status_; }

bool CudaBackend::Works() const { return status_.ok() && FirstCudaError().code == cudaSuccess; }

int64_t CudaBackend::BytesPerPage(const KvCacheSpec& spec) const {
  return KvLayout::PageBytes(spec);
}

int64_t CudaBackend::AvailableMemory() const {
  size_t free = 0, total = 0;
  CUDA_CHECK(cudaMemGetInfo(&free, &total));
  return free;
}

std::unique_ptr<DeviceBuffer> CudaBackend::Allocate(size_t bytes) {
  auto buffer = std::make_unique<GpuBuffer>(bytes);
  Keep(NeedMemory(*buffer, "an activation", kLessActivations));
  if (buffer->data() != nullptr) CUDA_CHECK(cudaMemset(buffer->data(), 0, bytes));
  return buffer;
}

std::unique_ptr<DeviceBuffer> CudaBackend::AllocateHost(size_t bytes) {
  auto buffer = std::make_unique<GpuBuffer>(bytes, GpuBuffer::Kind::kPinned);
  if (bytes > 0 && buffer->data() == nullptr) {
    Keep(absl::ResourceExhaustedError(
        absl::StrCat("device cuda: no ", Gigabytes(bytes), " of pinned host memory")));
  }
  return buffer;
}

std::unique_ptr<LinearWeight> CudaBackend::LoadLinear(absl::Span<const HostTensor> weights,
                                                      absl::Span<const HostTensor> biases) {
  absl::Status status;
  std::unique_ptr<GpuLinear> linear = linear_.Load(weights, biases, &status);
  Keep(status);
  return linear;
}

std::unique_ptr<EmbeddingWeight> CudaBackend::LoadEmbedding(const HostTensor& table) {
  auto embedding = std::make_unique<GpuEmbedding>(table);
  Keep(NeedMemory(embedding->data, "the embedding", "the model does not fit into what is left"));
  if (embedding->data.data() != nullptr) UploadAsBFloat16(table, embedding->data.data());
  return embedding;
}

std::unique_ptr<DeviceBuffer> CudaBackend::LoadVector(const HostTensor& values) {
  const std::vector<float> floats = ToFloats(values);
  auto buffer = std::make_unique<GpuBuffer>(floats.size() * sizeof(float));
  Keep(NeedMemory(*buffer, "a vector", "the model does not fit into what is left"));
  if (buffer->data() != nullptr) Upload(buffer->data(), floats.data(), buffer->size());
  return buffer;
}

absl::Status CudaBackend::CreateKvCache(const KvCacheSpec& spec) {
  if (absl::Status s = status(); !s.ok()) return s;
  kv_layout_.spec = spec;
  kv_ = GpuBuffer();  // the one before, if there is
  size_t free = 0, total = 0;
  CUDA_CHECK(cudaMemGetInfo(&free, &total));
  kv_ = GpuBuffer(kv_layout_.bytes());
  heads_.clear();
  plans_.clear();
  heads_.resize(spec.num_layers);
  graphs_.Forget();
  return NeedMemory(kv_, absl::StrCat("a KV cache of ", spec.num_pages, " pages"),
                    absl::StrCat("set --kv_cache_bytes to at most ", free / 10 * 9));
}

void* CudaBackend::Grown(GpuBuffer& buffer, size_t bytes, const char* what) {
  if (bytes <= buffer.size()) return buffer.data();
  // What was queued, and graphs, use the old one.
  graphs_.Run(stream_);
  CUDA_CHECK(cudaStreamSynchronize(stream_));
  graphs_.Forget();
  bytes = std::max(bytes, 2 * buffer.size());  // so that it doesn't move with every larger step
  buffer = GpuBuffer();
  buffer = GpuBuffer(bytes);
  Keep(NeedMemory(buffer, what, "a smaller --kv_cache_bytes leaves more"));
  return buffer.data();
}

}  // namespace tauserve::cuda

extern "C" __attribute__((visibility("default"))) void tauserve_create_cuda_backend(
    const tauserve::BackendOptions& options,
    absl::StatusOr<std::unique_ptr<tauserve::Backend>>* backend) {
  *backend = tauserve::cuda::CudaBackend::Create(options);
}
