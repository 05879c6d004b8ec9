// Passes every operation on to another backend. Benchmarks and tests derive from it and look at, or spoil, what interests
// them.
#ifndef TAUSERVE_TESTS_BENCH_FORWARDING_BACKEND_H_
#define TAUSERVE_TESTS_BENCH_FORWARDING_BACKEND_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "kernels/backend.h"

namespace tauserve {

class ForwardingBackend : public Backend {
 public:
  explicit ForwardingBackend(std::unique_ptr<Backend> backend) : backend_(std::move(backend)) {}

  const DeviceInfo& device() const override { return backend_->device(); }
  DataType activation_type() const override { return backend_->activation_type(); }
  int64_t BytesPerPage(const KvCacheSpec& spec) const override {
    return backend_->BytesPerPage(spec);
  }
  int64_t AvailableMemory() const override { return backend_->AvailableMemory(); }
  absl::Status status() const override { return backend_->status(); }
  std::optional<uint64_t> progress() const override { return backend_->progress(); }
  std::unique_ptr<DeviceBuffer> Allocate(size_t bytes) override {
    return backend_->Allocate(bytes);
  }
  std::unique_ptr<DeviceBuffer> AllocateHost(size_t bytes) override {
    return backend_->AllocateHost(bytes);
  }
  std::unique_ptr<LinearWeight> LoadLinear(absl::Span<const HostTensor> weights,
                                           absl::Span<const HostTensor> biases) override {
    return backend_->LoadLinear(weights, biases);
  }
  std::unique_ptr<EmbeddingWeight> LoadEmbedding(const HostTensor& table) override {
    return backend_->LoadEmbedding(table);
  }
  std::unique_ptr<DeviceBuffer> LoadVector(const HostTensor& values) override {
    return backend_->LoadVector(values);
  }
  absl::Status CreateKvCache(const KvCacheSpec& spec) override {
    return backend_->CreateKvCache(spec);
  }
  void CopyPages(absl::Span<const PageCopy> copies) override { backend_->CopyPages(copies); }
  void BeginStep(absl::Span<const SequenceSlice> slices) override { backend_->BeginStep(slices); }
  void Embed(const EmbeddingWeight& table, absl::Span<const int32_t> tokens, Matrix out) override {
    backend_->Embed(table, tokens, out);
  }
  void RmsNorm(Matrix in, const DeviceBuffer& weight, float epsilon, Matrix out) override {
    backend_->RmsNorm(in, weight, epsilon, out);
  }
  void Linear(const LinearWeight& weight, Matrix in, Matrix out) override {
    backend_->Linear(weight, in, out);
  }
  void LinearAdd(const LinearWeight& weight, Matrix in, Matrix out) override {
    backend_->LinearAdd(weight, in, out);
  }
  void LinearToFloat(const LinearWeight& weight, Matrix in, Matrix out) override {
    backend_->LinearToFloat(weight, in, out);
  }
  void SelectTopLogits(Matrix logits, absl::Span<const LogitsQuery> queries,
                       TopLogits* out) override {
    backend_->SelectTopLogits(logits, queries, out);
  }
  void Rope(const RopeSpec& spec, int head_dim, Matrix x) override {
    backend_->Rope(spec, head_dim, x);
  }
  void GatedActivation(Activation act, Matrix gate_up, Matrix out) override {
    backend_->GatedActivation(act, gate_up, out);
  }
  void GatedLinear(const LinearWeight& weight, Activation act, Matrix in, Matrix gate_up,
                   Matrix out) override {
    backend_->GatedLinear(weight, act, in, gate_up, out);
  }
  void QueryScale(const QueryScaleSpec& spec, Matrix projected, Matrix out) override {
    backend_->QueryScale(spec, projected, out);
  }
  void AppendKv(int layer, Matrix keys, Matrix values) override {
    backend_->AppendKv(layer, keys, values);
  }
  void Attention(int layer, const AttentionSpec& spec, Matrix q, Matrix query_scale,
                 Matrix out) override {
    backend_->Attention(layer, spec, q, query_scale, out);
  }
  void GatherRows(Matrix in, absl::Span<const int32_t> rows, Matrix out) override {
    backend_->GatherRows(in, rows, out);
  }
  void Download(Matrix in, float* out) override { backend_->Download(in, out); }
  void DownloadFloats(Matrix in, float* out) override { backend_->DownloadFloats(in, out); }
  absl::Status Synchronize() override { return backend_->Synchronize(); }
  absl::Span<const AttentionStats> stats() const override { return backend_->stats(); }

 private:
  std::unique_ptr<Backend> backend_;
};

}  // namespace tauserve

#endif  // TAUSERVE_TESTS_BENCH_FORWARDING_BACKEND_H_
