// Waits for every operation and adds up how long each kind took. What runs is the same, but nothing overlaps or is fused:
// the times say where a step of large operations goes, not how long a step of small ones takes.
#ifndef TAUSERVE_TESTS_BENCH_TIMED_BACKEND_H_
#define TAUSERVE_TESTS_BENCH_TIMED_BACKEND_H_

#include <chrono>
#include <memory>

#include "kernels/check.h"
#include "tests/bench/forwarding_backend.h"

namespace tauserve {

class TimedBackend : public ForwardingBackend {
 public:
  struct Times {
    double linear = 0, attention = 0, other = 0;  // seconds
    double linear_flops = 0;
  };

  using ForwardingBackend::ForwardingBackend;

  // Off at first: then operations are only passed on.
  void Start() {
    timing_ = true;
    times_ = {};
  }
  Times Stop() {
    timing_ = false;
    return times_;
  }
  // Of all linear layers, embeddings left out, in elements.
  int64_t linear_weights() const { return linear_weights_; }

  std::unique_ptr<LinearWeight> LoadLinear(absl::Span<const HostTensor> weights,
                                           absl::Span<const HostTensor> biases) override {
    auto weight = ForwardingBackend::LoadLinear(weights, biases);
    linear_weights_ += weight->in_features() * weight->out_features();
    return weight;
  }
  void Embed(const EmbeddingWeight& table, absl::Span<const int32_t> tokens, Matrix out) override {
    Time(times_.other, [&] { ForwardingBackend::Embed(table, tokens, out); });
  }
  void RmsNorm(Matrix in, const DeviceBuffer& weight, float epsilon, Matrix out) override {
    Time(times_.other, [&] { ForwardingBackend::RmsNorm(in, weight, epsilon, out); });
  }
  void Linear(const LinearWeight& weight, Matrix in, Matrix out) override {
    CountProduct(weight, in);
    Time(times_.linear, [&] { ForwardingBackend::Linear(weight, in, out); });
  }
  void LinearAdd(const LinearWeight& weight, Matrix in, Matrix out) override {
    CountProduct(weight, in);
    Time(times_.linear, [&] { ForwardingBackend::LinearAdd(weight, in, out); });
  }
  void Rope(const RopeSpec& spec, int head_dim, Matrix x) override {
    Time(times_.other, [&] { ForwardingBackend::Rope(spec, head_dim, x); });
  }
  void GatedActivation(Activation act, Matrix gate_up, Matrix out) override {
    Time(times_.other, [&] { ForwardingBackend::GatedActivation(act, gate_up, out); });
  }
  void GatedLinear(const LinearWeight& weight, Activation act, Matrix in, Matrix gate_up,
                   Matrix out) override {
    if (!timing_) return ForwardingBackend::GatedLinear(weight, act, in, gate_up, out);
    Backend::GatedLinear(weight, act, in, gate_up, out);  // the parts by themselves
  }
  void QueryScale(const QueryScaleSpec& spec, Matrix projected, Matrix out) override {
    Time(times_.other, [&] { ForwardingBackend::QueryScale(spec, projected, out); });
  }
  void AppendKv(int layer, Matrix keys, Matrix values) override {
    Time(times_.other, [&] { ForwardingBackend::AppendKv(layer, keys, values); });
  }
  void Attention(int layer, const AttentionSpec& spec, Matrix q, Matrix query_scale,
                 Matrix out) override {
    Time(times_.attention, [&] { ForwardingBackend::Attention(layer, spec, q, query_scale, out); });
  }

 private:
  void CountProduct(const LinearWeight& weight, Matrix in) {
    times_.linear_flops += 2.0 * in.rows * weight.in_features() * weight.out_features();
  }
  template <typename Operation>
  void Time(double& seconds, Operation operation) {
    if (!timing_) return operation();
    const auto start = std::chrono::steady_clock::now();
    operation();
    TAUSERVE_CHECK(Synchronize().ok(), "a step");
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  bool timing_ = false;
  Times times_;
  int64_t linear_weights_ = 0;
};

}  // namespace tauserve

#endif  // TAUSERVE_TESTS_BENCH_TIMED_BACKEND_H_
