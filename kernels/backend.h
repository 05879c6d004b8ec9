// The device that runs a model: memory, weights, paged KV cache and the operations of a transformer step. One backend
// is made at start and used by one thread, the engine's; operations may be queued and end in order, and Synchronize
// waits for them. Shapes and types that disagree are bugs of the caller and end the process. What fails on the device
// (no memory, a fault while serving) is kept: operations after it do nothing, status() and Synchronize return it.
#ifndef TAUSERVE_KERNELS_BACKEND_H_
#define TAUSERVE_KERNELS_BACKEND_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/attention.h"
#include "kernels/layer_specs.h"
#include "kernels/tensor.h"
#include "kernels/top_logits.h"

namespace tauserve {

struct BackendOptions {
  std::string device = "auto";  // auto, cpu, cuda
  int threads = 0;              // CPU worker threads; 0 = one for each core
  // Type of linear layers' operands; sums are float32. Without: float32 on the CPU, bfloat16 on a GPU.
  std::optional<DataType> compute_type;
  std::optional<DataType> kv_type;  // float32 or bfloat16; without: as the linear layers
};

struct DeviceInfo {
  std::string name;          // "cpu (avx512_bf16, 2 threads)"
  bool native_bf16 = false;  // multiplies bfloat16 faster than float32
  bool own_memory = false;   // has memory of its own, which nothing else needs while it serves
};

// Device memory; freed on destruction.
class DeviceBuffer {
 public:
  virtual ~DeviceBuffer() = default;
  virtual void* data() = 0;
  virtual size_t size() const = 0;  // bytes
};

// Weights in the form that the device multiplies fastest.
class LinearWeight {
 public:
  virtual ~LinearWeight() = default;
  virtual int64_t in_features() const = 0;
  virtual int64_t out_features() const = 0;
};

class EmbeddingWeight {
 public:
  virtual ~EmbeddingWeight() = default;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual const DeviceInfo& device() const = 0;
  virtual DataType activation_type() const = 0;
  // Bytes that one page of `spec` takes, all layers, with what is kept beside the keys and values.
  virtual int64_t BytesPerPage(const KvCacheSpec& spec) const = 0;
  // Bytes that could be allocated now; 0 where that can't be known.
  virtual int64_t AvailableMemory() const = 0;
  // The first error of the device.
  virtual absl::Status status() const { return absl::OkStatus(); }
  // A number that changes while operations get on, within long ones too; any thread may look at it while a step runs.
  // nullopt: the device does not tell before Synchronize returns.
  virtual std::optional<uint64_t> progress() const { return std::nullopt; }

  // --- Set-up. Where memory is short the objects have none, and status() says how much was needed.
  virtual std::unique_ptr<DeviceBuffer> Allocate(size_t bytes) = 0;
  // Memory of the host that the device copies to fastest.
  virtual std::unique_ptr<DeviceBuffer> AllocateHost(size_t bytes) = 0;
  // Weights [out, in], stacked along `out`; `biases` is empty or has one of [out] for each weight.
  virtual std::unique_ptr<LinearWeight> LoadLinear(absl::Span<const HostTensor> weights,
                                                   absl::Span<const HostTensor> biases) = 0;
  virtual std::unique_ptr<EmbeddingWeight> LoadEmbedding(const HostTensor& table) = 0;
  virtual std::unique_ptr<DeviceBuffer> LoadVector(const HostTensor& values) = 0;  // float32
  virtual absl::Status CreateKvCache(const KvCacheSpec& spec) = 0;

  // --- Before a step: queues copies of pages, with all that is kept beside keys and values. No page is both copied and
  // written.
  virtual void CopyPages(absl::Span<const PageCopy> copies) = 0;

  // --- One step. BeginStep takes the slices (pages must stay valid until Synchronize) and `positions` of all rows;
  // the operations up to Synchronize are about this step.
  virtual void BeginStep(absl::Span<const SequenceSlice> slices) = 0;
  virtual void Embed(const EmbeddingWeight& table, absl::Span<const int32_t> tokens,
                     Matrix out) = 0;
  // Every run of as many columns as `weight` has values is normed by itself: a whole row, or each head of it.
  virtual void RmsNorm(Matrix in, const DeviceBuffer& weight, float epsilon, Matrix out) = 0;
  virtual void Linear(const LinearWeight& weight, Matrix in, Matrix out) = 0;
  // out += in * weight^T
  virtual void LinearAdd(const LinearWeight& weight, Matrix in, Matrix out) = 0;
  // As Linear, but `out` is float32 on every device.
  virtual void LinearToFloat(const LinearWeight& weight, Matrix in, Matrix out) = 0;
  // Of the rows of `logits`, float32, in device memory: queues what `queries`, one for each row, ask for to `out`, host
  // memory, one for each row; valid after Synchronize returned OK. Of rows wanted whole, `out` stays undefined.
  virtual void SelectTopLogits(Matrix logits, absl::Span<const LogitsQuery> queries,
                               TopLogits* out) = 0;
  // Turns every head of `x` [rows, heads * head_dim] in place.
  virtual void Rope(const RopeSpec& spec, int head_dim, Matrix x) = 0;
  // out[r][c] = act(gate_up[r][c]) * gate_up[r][cols + c]
  virtual void GatedActivation(Activation act, Matrix gate_up, Matrix out) = 0;
  // Linear to `gate_up`, then GatedActivation of that to `out`. Where a device does both at once, `gate_up` may keep what
  // it held.
  virtual void GatedLinear(const LinearWeight& weight, Activation act, Matrix in, Matrix gate_up,
                           Matrix out) {
    Linear(weight, in, gate_up);
    GatedActivation(act, gate_up, out);
  }
  // `projected` [rows, 2 * n]: b then g for the n = num_heads - first_head scaled heads (kAdaptive; else unused).
  // out: float32 on every device, [rows, num_heads].
  virtual void QueryScale(const QueryScaleSpec& spec, Matrix projected, Matrix out) = 0;
  // Appends the step's keys and values, [rows, num_kv_heads * head_dim], to the slices' pages.
  virtual void AppendKv(int layer, Matrix keys, Matrix values) = 0;
  // q, out: [rows, num_heads * head_dim]; query_scale: float32 [rows, num_heads], or data == nullptr for 1.
  virtual void Attention(int layer, const AttentionSpec& spec, Matrix q, Matrix query_scale,
                         Matrix out) = 0;
  virtual void GatherRows(Matrix in, absl::Span<const int32_t> rows, Matrix out) = 0;
  // Queues a copy to host memory as float32, tightly packed; valid after Synchronize returned OK.
  virtual void Download(Matrix in, float* out) = 0;
  // The same of a matrix that is float32 on every device, as it is at the end of the step. Also after Synchronize, for
  // another one to wait for.
  virtual void DownloadFloats(Matrix in, float* out) = 0;
  // Waits for all operations. Not OK: the device failed, nothing of the step is valid, and no step will be again.
  virtual absl::Status Synchronize() = 0;
  // Of the last step, one for each slice; valid after Synchronize.
  virtual absl::Span<const AttentionStats> stats() const = 0;
};

// The devices that this binary was built with: "cpu", "cuda".
std::vector<std::string> CompiledDevices();

// InvalidArgument for an unknown name, FailedPrecondition for a device that is not built in or not there. Where "auto"
// takes the CPU though the machine has a driver for GPUs, `gpu_refused` gets the reason.
absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options,
                                                       absl::Status* gpu_refused = nullptr);

}  // namespace tauserve

#endif  // TAUSERVE_KERNELS_BACKEND_H_
