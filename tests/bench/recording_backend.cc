#include "tests/bench/recording_backend.h"

namespace tauserve {
namespace {

void AppendRows(Matrix m, std::vector<float>& to) {
  for (int64_t r = 0; r < m.rows; r++) {
    const float* row = static_cast<const float*>(m.data) + r * m.stride;
    to.insert(to.end(), row, row + m.cols);
  }
}

}  // namespace

void RecordingBackend::AppendKv(int layer, Matrix keys, Matrix values) {
  AppendRows(keys, layers_[layer].k);
  AppendRows(values, layers_[layer].v);
  ForwardingBackend::AppendKv(layer, keys, values);
}

void RecordingBackend::Attention(int layer, const AttentionSpec& spec, Matrix q, Matrix query_scale,
                                 Matrix out) {
  RecordedLayer& to = layers_[layer];
  to.spec = spec;
  to.tokens += static_cast<int>(q.rows);
  AppendRows(q, to.q);
  if (query_scale.data) {
    AppendRows(query_scale, to.query_scale);
  } else {
    to.query_scale.insert(to.query_scale.end(), q.rows * spec.num_heads, 1.0f);
  }
  ForwardingBackend::Attention(layer, spec, q, query_scale, out);
}

}  // namespace tauserve
