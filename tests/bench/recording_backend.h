// Keeps what attention was given: queries, keys and values of a real model, for benchmarks.
#ifndef TAUSERVE_TESTS_BENCH_RECORDING_BACKEND_H_
#define TAUSERVE_TESTS_BENCH_RECORDING_BACKEND_H_

#include <vector>

#include "tests/bench/forwarding_backend.h"

namespace tauserve {

// One layer's attention over one sequence.
struct RecordedLayer {
  AttentionSpec spec;
  int tokens = 0;
  std::vector<float> q;            // [tokens][num_heads * head_dim]
  std::vector<float> k, v;         // [tokens][num_kv_heads * head_dim]
  std::vector<float> query_scale;  // [tokens][num_heads]
};

class RecordingBackend : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;

  // Of the one sequence that was run.
  std::vector<RecordedLayer>& layers() { return layers_; }

  absl::Status CreateKvCache(const KvCacheSpec& spec) override {
    layers_.resize(spec.num_layers);
    return ForwardingBackend::CreateKvCache(spec);
  }
  void AppendKv(int layer, Matrix keys, Matrix values) override;
  void Attention(int layer, const AttentionSpec& spec, Matrix q, Matrix query_scale,
                 Matrix out) override;

 private:
  std::vector<RecordedLayer> layers_;
};

}  // namespace tauserve

#endif  // TAUSERVE_TESTS_BENCH_RECORDING_BACKEND_H_
