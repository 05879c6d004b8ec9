// A Backend as plain as its contract: scalar loops, sums in double precision, nothing fast. Tests
// of the transformer run on it where they must not depend on kernels/cpu, and an odd result of
// either can be checked against the other.
#ifndef TAUSERVE_TESTS_SERVER_MODEL_PLAIN_BACKEND_H_
#define TAUSERVE_TESTS_SERVER_MODEL_PLAIN_BACKEND_H_

#include <memory>
#include <vector>

#include "kernels/backend.h"

namespace tauserve {

class PlainBackend : public Backend {
 public:
  PlainBackend();

  const DeviceInfo& device() const override { return device_; }
  DataType activation_type() const override { return DataType::kFloat32; }
  int64_t BytesPerPage(const KvCacheSpec& spec) const override;

  int64_t AvailableMemory() const override { return 0; }
  std::unique_ptr<DeviceBuffer> Allocate(size_t bytes) override;
  std::unique_ptr<DeviceBuffer> AllocateHost(size_t bytes) override { return Allocate(bytes); }
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
  void LinearToFloat(const LinearWeight& weight, Matrix in, Matrix out) override {
    Linear(weight, in, out);
  }
  void SelectTopLogits(Matrix logits, absl::Span<const LogitsQuery> queries,
                       TopLogits* out) override;
  void Rope(const RopeSpec& spec, int head_dim, Matrix x) override;
  void GatedActivation(Activation act, Matrix gate_up, Matrix out) override;
  void QueryScale(const QueryScaleSpec& spec, Matrix projected, Matrix out) override;
  void AppendKv(int layer, Matrix keys, Matrix values) override;
  void Attention(int layer, const AttentionSpec& spec, Matrix q, Matrix query_scale,
                 Matrix out) override;
  void GatherRows(Matrix in, absl::Span<const int32_t> rows, Matrix out) override;
  void Download(Matrix in, float* out) override;
  void DownloadFloats(Matrix in, float* out) override { Download(in, out); }
  absl::Status Synchronize() override { return absl::OkStatus(); }
  absl::Span<const AttentionStats> stats() const override { return stats_; }

 private:
  // Of token `position` of a sequence; [head_dim] for each KV head, keys then values.
  float* CacheRow(int layer, const SequenceSlice& slice, int position);

  DeviceInfo device_;
  KvCacheSpec cache_spec_;
  std::vector<float> cache_;
  std::vector<SequenceSlice> slices_;
  std::vector<int> positions_;  // of the step's rows
  std::vector<AttentionStats> stats_;
};

}  // namespace tauserve

#endif  // TAUSERVE_TESTS_SERVER_MODEL_PLAIN_BACKEND_H_
