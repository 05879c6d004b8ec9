// The device that runs a model: memory, weights, paged KV cache and the operations of a transformer step. One backend
// is made at start and used by one thread, the engine's; operations may be queued and end in order, and Synchronize
// waits for them. Shapes and types that disagree are bugs of the caller and end the process.
#ifndef TAUSERVE_KERNELS_BACKEND_H_
#define TAUSERVE_KERNELS_BACKEND_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/attention.h"
#include "kernels/tensor.h"

namespace tauserve {

struct BackendOptions {
  std::string device = "auto";  // auto, cpu, cuda
  int threads = 0;              // CPU worker threads; 0 = one for each core
  // Type of linear layers' operands; sums are float32. Default: the checkpoint's where the device multiplies it
  // natively, else float32.
  DataType compute_type = DataType::kFloat32;
  DataType kv_type = DataType::kFloat32;  // float32 or bfloat16
};

struct DeviceInfo {
  std::string name;          // "cpu (avx512_bf16, 2 threads)"
  bool native_bf16 = false;  // multiplies bfloat16 faster than float32
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

// Rotary embedding of the first `rotary_dim` dims of each head, halves layout: dims (d, d + rotary_dim / 2) turn by
// position * inverse_frequency[d], and are multiplied by `attention_factor` (yarn; 1 otherwise).
struct RopeSpec {
  int rotary_dim = 0;
  std::vector<float> inverse_frequency;  // [rotary_dim / 2]
  float attention_factor = 1;
};

// ASEntmax query scaling (arXiv 2506.16640): query_scale[i][h] for position i = `delta` + beta * log(i + 2)^gamma with
// beta = softplus(b), gamma = gamma_range * tanh(g) from a projection of the token (`kAdaptive`), or constants of the
// head (`kLearned`), or delta = 0 and gamma = 1 (`kLogarithmic`). Heads before first_head get 1.
struct QueryScaleSpec {
  enum class Kind { kNone, kAdaptive, kLearned, kLogarithmic };
  Kind kind = Kind::kNone;
  int first_head = 0;
  float delta = 1;
  float gamma_range = 1;
  std::vector<float> beta;   // kLearned, kLogarithmic: [num_heads - first_head]
  std::vector<float> gamma;  // kLearned
};

enum class Activation { kSilu, kGeluTanh };

struct KvCacheSpec {
  int num_layers = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int num_pages = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual const DeviceInfo& device() const = 0;
  virtual DataType activation_type() const = 0;
  // Bytes that one page of `spec` takes, all layers, with what is kept beside the keys and values.
  virtual int64_t BytesPerPage(const KvCacheSpec& spec) const = 0;

  // --- Set-up
  virtual std::unique_ptr<DeviceBuffer> Allocate(size_t bytes) = 0;
  // Weights [out, in], stacked along `out`; `biases` is empty or has one of [out] for each weight.
  virtual std::unique_ptr<LinearWeight> LoadLinear(absl::Span<const HostTensor> weights,
                                                   absl::Span<const HostTensor> biases) = 0;
  virtual std::unique_ptr<EmbeddingWeight> LoadEmbedding(const HostTensor& table) = 0;
  virtual std::unique_ptr<DeviceBuffer> LoadVector(const HostTensor& values) = 0;  // float32
  virtual absl::Status CreateKvCache(const KvCacheSpec& spec) = 0;

  // --- One step. BeginStep takes the slices (pages must stay valid until Synchronize) and `positions` of all rows;
  // the operations up to Synchronize are about this step.
  virtual void BeginStep(absl::Span<const SequenceSlice> slices) = 0;
  virtual void Embed(const EmbeddingWeight& table, absl::Span<const int32_t> tokens,
                     Matrix out) = 0;
  virtual void RmsNorm(Matrix in, const DeviceBuffer& weight, float epsilon, Matrix out) = 0;
  virtual void Linear(const LinearWeight& weight, Matrix in, Matrix out) = 0;
  // out += in * weight^T
  virtual void LinearAdd(const LinearWeight& weight, Matrix in, Matrix out) = 0;
  // Turns every head of `x` [rows, heads * head_dim] in place.
  virtual void Rope(const RopeSpec& spec, int head_dim, Matrix x) = 0;
  // out[r][c] = act(gate_up[r][c]) * gate_up[r][cols + c]
  virtual void GatedActivation(Activation act, Matrix gate_up, Matrix out) = 0;
  // `projected` [rows, 2 * n]: b then g for the n = num_heads - first_head scaled heads (kAdaptive; else unused).
  // out: [rows, num_heads].
  virtual void QueryScale(const QueryScaleSpec& spec, Matrix projected, Matrix out) = 0;
  // Appends the step's keys and values, [rows, num_kv_heads * head_dim], to the slices' pages.
  virtual void AppendKv(int layer, Matrix keys, Matrix values) = 0;
  // q, out: [rows, num_heads * head_dim]; query_scale: [rows, num_heads] or data == nullptr for 1.
  virtual void Attention(int layer, const AttentionSpec& spec, Matrix q, Matrix query_scale,
                         Matrix out) = 0;
  virtual void GatherRows(Matrix in, absl::Span<const int32_t> rows, Matrix out) = 0;
  // Queues a copy to host memory as float32, tightly packed; valid after Synchronize.
  virtual void Download(Matrix in, float* out) = 0;
  virtual void Synchronize() = 0;
  // Of the last step, one for each slice; valid after Synchronize.
  virtual absl::Span<const AttentionStats> stats() const = 0;
};

// The devices that this binary was built with: "cpu", "cuda".
std::vector<std::string> CompiledDevices();

// InvalidArgument for an unknown name, FailedPrecondition for a device that is not built in or not there.
absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options);

}  // namespace tauserve

#endif  // TAUSERVE_KERNELS_BACKEND_H_
