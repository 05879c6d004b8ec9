#include "tests/server/model/plain_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "kernels/check.h"
#include "kernels/half.h"
#include "kernels/reference/attention.h"

namespace tauserve {
namespace {

class PlainBuffer : public DeviceBuffer {
 public:
  explicit PlainBuffer(size_t bytes) : values(bytes / sizeof(float), NAN) {}
  void* data() override { return values.data(); }
  size_t size() const override { return values.size() * sizeof(float); }

  std::vector<float> values;
};

struct PlainLinear : public LinearWeight {
  int64_t in_features() const override { return in; }
  int64_t out_features() const override { return out; }

  int64_t in = 0;
  int64_t out = 0;
  std::vector<float> weight;  // [out, in]
  std::vector<float> bias;    // [out], 0 where there is none
};

struct PlainEmbedding : public EmbeddingWeight {
  int64_t width = 0;
  std::vector<float> table;
};

void AppendFloats(const HostTensor& tensor, std::vector<float>* values) {
  const char* bytes = static_cast<const char*>(tensor.data);
  for (int64_t i = 0; i < tensor.size(); ++i) {
    float value = 0;
    uint16_t half = 0;
    if (tensor.type == DataType::kFloat32) {
      std::memcpy(&value, bytes + 4 * i, 4);
    } else {
      std::memcpy(&half, bytes + 2 * i, 2);
      value = tensor.type == DataType::kBFloat16 ? BFloat16ToFloat(half) : Float16ToFloat(half);
    }
    values->push_back(value);
  }
}

float* Row(const Matrix& m, int64_t row) { return static_cast<float*>(m.data) + row * m.stride; }

double Activate(Activation act, double x) {
  if (act == Activation::kSilu) return x / (1 + std::exp(-x));
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

}  // namespace

PlainBackend::PlainBackend() { device_.name = "plain"; }

int64_t PlainBackend::BytesPerPage(const KvCacheSpec& spec) const {
  return int64_t{kPageTokens} * spec.num_layers * spec.num_kv_heads * spec.head_dim * 2 *
         sizeof(float);
}

std::unique_ptr<DeviceBuffer> PlainBackend::Allocate(size_t bytes) {
  return std::make_unique<PlainBuffer>(bytes);
}

std::unique_ptr<LinearWeight> PlainBackend::LoadLinear(absl::Span<const HostTensor> weights,
                                                       absl::Span<const HostTensor> biases) {
  auto linear = std::make_unique<PlainLinear>();
  linear->in = weights[0].shape[1];
  for (const HostTensor& weight : weights) {
    TAUSERVE_CHECK(weight.shape.size() == 2 && weight.shape[1] == linear->in, "weight shape");
    linear->out += weight.shape[0];
    AppendFloats(weight, &linear->weight);
  }
  TAUSERVE_CHECK(biases.empty() || biases.size() == weights.size(), "number of biases");
  for (const HostTensor& bias : biases) AppendFloats(bias, &linear->bias);
  linear->bias.resize(linear->out, 0);
  return linear;
}

std::unique_ptr<EmbeddingWeight> PlainBackend::LoadEmbedding(const HostTensor& table) {
  auto embedding = std::make_unique<PlainEmbedding>();
  embedding->width = table.shape[1];
  AppendFloats(table, &embedding->table);
  return embedding;
}

std::unique_ptr<DeviceBuffer> PlainBackend::LoadVector(const HostTensor& values) {
  auto buffer = std::make_unique<PlainBuffer>(0);
  AppendFloats(values, &buffer->values);
  return buffer;
}

absl::Status PlainBackend::CreateKvCache(const KvCacheSpec& spec) {
  cache_spec_ = spec;
  cache_.assign(spec.num_pages * BytesPerPage(spec) / sizeof(float), NAN);
  return absl::OkStatus();
}

float* PlainBackend::CacheRow(int layer, const SequenceSlice& slice, int position) {
  const int64_t page = slice.pages[position / kPageTokens];
  TAUSERVE_CHECK(page >= 0 && page < cache_spec_.num_pages, "page outside the cache");
  const int64_t row_values = 2 * cache_spec_.num_kv_heads * cache_spec_.head_dim;
  const int64_t token = page * kPageTokens + position % kPageTokens;
  return cache_.data() + (token * cache_spec_.num_layers + layer) * row_values;
}

void PlainBackend::CopyPages(absl::Span<const PageCopy> copies) {
  const int64_t page_values = BytesPerPage(cache_spec_) / sizeof(float);
  for (const PageCopy& copy : copies) {
    std::copy_n(cache_.begin() + copy.from * page_values, page_values,
                cache_.begin() + copy.to * page_values);
  }
}

void PlainBackend::BeginStep(absl::Span<const SequenceSlice> slices) {
  slices_.assign(slices.begin(), slices.end());
  stats_.assign(slices.size(), AttentionStats());
  positions_.clear();
  for (const SequenceSlice& slice : slices) {
    TAUSERVE_CHECK(slice.first_row == static_cast<int>(positions_.size()), "rows of slices");
    for (int i = 0; i < slice.num_tokens; ++i) positions_.push_back(slice.context_tokens + i);
  }
}

void PlainBackend::Embed(const EmbeddingWeight& table, absl::Span<const int32_t> tokens,
                         Matrix out) {
  const auto& embedding = static_cast<const PlainEmbedding&>(table);
  for (int64_t r = 0; r < out.rows; ++r) {
    const float* from = embedding.table.data() + tokens[r] * embedding.width;
    std::copy(from, from + embedding.width, Row(out, r));
  }
}

void PlainBackend::RmsNorm(Matrix in, const DeviceBuffer& weight, float epsilon, Matrix out) {
  const std::vector<float>& w = static_cast<const PlainBuffer&>(weight).values;
  const int64_t n = w.size();
  TAUSERVE_CHECK(in.cols % n == 0, "norm's weight");
  for (int64_t i = 0; i < in.rows * (in.cols / n); ++i) {
    const int64_t r = i / (in.cols / n), begin = i % (in.cols / n) * n;
    const float* x = Row(in, r) + begin;
    double squares = 0;
    for (int64_t c = 0; c < n; ++c) squares += double{x[c]} * x[c];
    const double inverse = 1 / std::sqrt(squares / n + epsilon);
    for (int64_t c = 0; c < n; ++c) Row(out, r)[begin + c] = x[c] * inverse * w[c];
  }
}

void PlainBackend::SelectTopLogits(Matrix logits, absl::Span<const LogitsQuery> queries,
                                   TopLogits* out) {
  for (int64_t r = 0; r < logits.rows; ++r) {
    if (!queries[r].whole)
      FindTopLogits({Row(logits, r), size_t(logits.cols)}, queries[r], &out[r]);
  }
}

void PlainBackend::Linear(const LinearWeight& weight, Matrix in, Matrix out) {
  for (int64_t r = 0; r < out.rows; ++r) std::fill_n(Row(out, r), out.cols, 0.f);
  LinearAdd(weight, in, out);
}

void PlainBackend::LinearAdd(const LinearWeight& weight, Matrix in, Matrix out) {
  const auto& linear = static_cast<const PlainLinear&>(weight);
  TAUSERVE_CHECK(in.cols == linear.in && out.cols == linear.out && in.rows == out.rows, "shapes");
  for (int64_t r = 0; r < in.rows; ++r) {
    const float* x = Row(in, r);
    for (int64_t o = 0; o < linear.out; ++o) {
      const float* w = linear.weight.data() + o * linear.in;
      double sum = linear.bias[o];
      for (int64_t c = 0; c < linear.in; ++c) sum += double{x[c]} * w[c];
      Row(out, r)[o] += sum;
    }
  }
}

void PlainBackend::Rope(const RopeSpec& spec, int head_dim, Matrix x) {
  const int half = spec.rotary_dim / 2;
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t begin = 0; begin < x.cols; begin += head_dim) {
      float* head = Row(x, r) + begin;
      for (int d = 0; d < half; ++d) {
        const double angle = positions_[r] * double{spec.inverse_frequency[d]};
        const double cosine = std::cos(angle) * spec.attention_factor;
        const double sine = std::sin(angle) * spec.attention_factor;
        const double a = head[d];
        const double b = head[d + half];
        head[d] = a * cosine - b * sine;
        head[d + half] = b * cosine + a * sine;
      }
    }
  }
}

void PlainBackend::GatedActivation(Activation act, Matrix gate_up, Matrix out) {
  for (int64_t r = 0; r < out.rows; ++r) {
    for (int64_t c = 0; c < out.cols; ++c) {
      Row(out, r)[c] = Activate(act, Row(gate_up, r)[c]) * Row(gate_up, r)[out.cols + c];
    }
  }
}

void PlainBackend::QueryScale(const QueryScaleSpec& spec, Matrix projected, Matrix out) {
  using Kind = QueryScaleSpec::Kind;
  const int64_t scaled = out.cols - spec.first_head;
  for (int64_t r = 0; r < out.rows; ++r) {
    const double log_position = std::log(positions_[r] + 2.0);
    std::fill_n(Row(out, r), spec.first_head, 1.f);
    for (int64_t h = 0; h < scaled; ++h) {
      double scale = 1;
      if (spec.kind == Kind::kAdaptive) {
        const double beta = std::log1p(std::exp(double{Row(projected, r)[h]}));
        const double gamma = spec.gamma_range * std::tanh(double{Row(projected, r)[scaled + h]});
        scale = spec.delta + beta * std::pow(log_position, gamma);
      } else if (spec.kind == Kind::kLearned) {
        scale = spec.delta + spec.beta[h] * std::pow(log_position, double{spec.gamma[h]});
      } else if (spec.kind == Kind::kLogarithmic) {
        scale = spec.beta[h] * log_position;
      }
      Row(out, r)[spec.first_head + h] = scale;
    }
  }
}

void PlainBackend::AppendKv(int layer, Matrix keys, Matrix values) {
  for (const SequenceSlice& slice : slices_) {
    for (int i = 0; i < slice.num_tokens; ++i) {
      float* to = CacheRow(layer, slice, slice.context_tokens + i);
      std::copy_n(Row(keys, slice.first_row + i), keys.cols, to);
      std::copy_n(Row(values, slice.first_row + i), values.cols, to + keys.cols);
    }
  }
}

void PlainBackend::Attention(int layer, const AttentionSpec& spec, Matrix q, Matrix query_scale,
                             Matrix out) {
  const int dim = spec.head_dim;
  for (size_t s = 0; s < slices_.size(); ++s) {
    const SequenceSlice& slice = slices_[s];
    const int end = slice.context_tokens + slice.num_tokens;
    for (int head = 0; head < spec.num_heads; ++head) {
      const int kv_head = head / (spec.num_heads / spec.num_kv_heads);
      std::vector<double> keys;
      std::vector<double> values;
      for (int j = 0; j < end; ++j) {
        const float* row = CacheRow(layer, slice, j) + kv_head * dim;
        keys.insert(keys.end(), row, row + dim);
        row += spec.num_kv_heads * dim;
        values.insert(values.end(), row, row + dim);
      }
      for (int i = 0; i < slice.num_tokens; ++i) {
        const int64_t r = slice.first_row + i;
        const float* query = Row(q, r) + head * dim;
        const std::vector<double> query64(query, query + dim);
        reference::Row row;
        row.q = query64.data();
        row.keys = keys.data();
        row.values = values.data();
        row.head_dim = dim;
        row.last = positions_[r] + 1;
        row.first = spec.sliding_window ? std::max(0, row.last - spec.sliding_window) : 0;
        row.score_scale = spec.scale;
        if (query_scale.data != nullptr) row.score_scale *= Row(query_scale, r)[head];
        row.alibi_slope = spec.alibi_slope[head];
        row.alpha = spec.alpha[head];
        const reference::RowResult result = reference::Attend(row);
        std::copy(result.out.begin(), result.out.end(), Row(out, r) + head * dim);
        stats_[s].keys_considered += row.last - row.first;
      }
    }
  }
}

void PlainBackend::GatherRows(Matrix in, absl::Span<const int32_t> rows, Matrix out) {
  for (size_t r = 0; r < rows.size(); ++r) std::copy_n(Row(in, rows[r]), in.cols, Row(out, r));
}

void PlainBackend::Download(Matrix in, float* out) {
  for (int64_t r = 0; r < in.rows; ++r) std::copy_n(Row(in, r), in.cols, out + r * in.cols);
}

}  // namespace tauserve
