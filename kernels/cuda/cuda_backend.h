// The CUDA backend: one GPU, one stream. Operations are queued; a step waits for the GPU once, in Synchronize, and
// allocates nothing once its buffers have grown to the largest step. Steps of decoding run as CUDA graphs.
// Activations, weights and the cache are bfloat16.
#ifndef TAUSERVE_KERNELS_CUDA_CUDA_BACKEND_H_
#define TAUSERVE_KERNELS_CUDA_CUDA_BACKEND_H_

#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/decode_plan.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/kv_cache.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/step_graphs.h"
#include "kernels/cuda/step_state.h"

namespace tauserve::cuda {

class GpuEmbedding : public EmbeddingWeight {
 public:
  explicit GpuEmbedding(const HostTensor& table)
      : rows(table.shape[0]), cols(table.shape[1]), data(rows * cols * 2) {}
  int64_t rows, cols;
  GpuBuffer data;  // bfloat16 [rows][cols]
};

class CudaBackend : public Backend {
 public:
  // Errors of OpenGpu; InvalidArgument for types other than bfloat16.
  static absl::StatusOr<std::unique_ptr<Backend>> Create(const BackendOptions& options);
  ~CudaBackend() override;

  const DeviceInfo& device() const override { return device_; }
  DataType activation_type() const override { return DataType::kBFloat16; }
  int64_t BytesPerPage(const KvCacheSpec& spec) const override;
  int64_t AvailableMemory() const override;
  absl::Status status() const override;

  std::unique_ptr<DeviceBuffer> Allocate(size_t bytes) override;
  std::unique_ptr<DeviceBuffer> AllocateHost(size_t bytes) override;
  std::unique_ptr<LinearWeight> LoadLinear(absl::Span<const HostTensor> weights,
                                           absl::Span<const HostTensor> biases) override;
  std::unique_ptr<EmbeddingWeight> LoadEmbedding(const HostTensor& table) override;
  std::unique_ptr<DeviceBuffer> LoadVector(const HostTensor& values) override;
  absl::Status CreateKvCache(const KvCacheSpec& spec) override;

  void CopyPages(absl::Span<const PageCopy> copies) override;
  void BeginStep(absl::Span<const SequenceSlice> slices) override;
  void Embed(const EmbeddingWeight& table, absl::Span<const int32_t> tokens, Matrix out) override;
  void RmsNorm(Matrix in, const DeviceBuffer& weight, float epsilon, Matrix out) override;
  void Linear(const LinearWeight& weight, Matrix in, Matrix out) override;
  void LinearAdd(const LinearWeight& weight, Matrix in, Matrix out) override;
  void LinearToFloat(const LinearWeight& weight, Matrix in, Matrix out) override;
  void SelectTopLogits(Matrix logits, absl::Span<const LogitsQuery> queries,
                       TopLogits* out) override;
  void Rope(const RopeSpec& spec, int head_dim, Matrix x) override;
  void GatedActivation(Activation act, Matrix gate_up, Matrix out) override;
  void GatedLinear(const LinearWeight& weight, Activation act, Matrix in, Matrix gate_up,
                   Matrix out) override;
  void QueryScale(const QueryScaleSpec& spec, Matrix projected, Matrix out) override;
  void AppendKv(int layer, Matrix keys, Matrix values) override;
  void Attention(int layer, const AttentionSpec& spec, Matrix q, Matrix query_scale,
                 Matrix out) override;
  void GatherRows(Matrix in, absl::Span<const int32_t> rows, Matrix out) override;
  void Download(Matrix in, float* out) override;
  void DownloadFloats(Matrix in, float* out) override;
  absl::Status Synchronize() override;
  absl::Span<const AttentionStats> stats() const override { return step_.stats(); }

 private:
  void Multiply(const LinearWeight& weight, Matrix in, bool add, Matrix out, DataType out_type);
  void Gather(const __nv_bfloat16* table, int64_t stride, absl::Span<const int32_t> rows,
              Matrix out);

  // A layer's heads, on the host and the device; uploaded when they differ from the last call's.
  struct LayerHeads {
    std::vector<Head> host;
    GpuBuffer device;
  };

  // The plan of a step's decode rows for layers whose heads are alike in what plans depend on.
  struct StepPlan {
    uint64_t layers = 0;   // the signature of such layers
    bool current = false;  // made in this step
    DecodePlanOptions options;
    DecodePlan plan;
    GpuBuffer host{0, GpuBuffer::Kind::kPinned}, device;  // of the same bytes
  };

  explicit CudaBackend(const GpuProperties& gpu);
  void Keep(const absl::Status& status);
  // Whether operations are to be queued at all.
  bool Works() const;
  const Head* HeadsOf(int layer, const AttentionSpec& spec);
  // nullptr where memory was short.
  StepPlan* PlanOf(const AttentionArgs& args);
  // Attention of all slices of `args`, by the kernel made for them.
  void AttendDecode(AttentionArgs args);
  void AttendPrefill(AttentionArgs args);
  void AttendPrefillEntmax(AttentionArgs args);
  void AttendPrefillSoftmax(AttentionArgs args);
  // False where memory was short.
  bool TakePrefillWorkspace(size_t bytes, AttentionArgs& args);
  // Runs what was kept, and the copies that the host asked for; waits for all.
  void Finish();
  // At least so large; what it held is lost. nullptr where memory was short.
  void* Grown(GpuBuffer& buffer, size_t bytes, const char* what);

  DeviceInfo device_;
  cudaStream_t stream_ = nullptr;
  absl::Status status_;  // what is not in KeptCudaStatus
  LinearEngine linear_;
  KvLayout kv_layout_;
  GpuBuffer kv_;
  int multiprocessors_ = 0;
  std::vector<LayerHeads> heads_;  // [layers]
  std::vector<std::unique_ptr<StepPlan>> plans_;
  GpuBuffer decode_workspace_, prefill_workspace_;
  StepState step_;
  StepGraphs graphs_;
  bool queued_ = false;  // something since the last Synchronize
  const RopeSpec* rope_spec_ = nullptr;
  GpuBuffer rope_table_;  // of the step: [rows][rotary_dim]
  GpuBuffer floats_;      // results in float32 on their way to the host
  GpuBuffer top_logits_;  // the same
  std::vector<int32_t> query_words_;
  // Of this step. Not among the graphs' operations: which rows are asked for varies from step to step.
  struct FloatCopy {
    Matrix in;
    float* out;
  };
  std::vector<FloatCopy> float_copies_;
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_CUDA_BACKEND_H_
