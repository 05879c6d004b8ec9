#include "server/model/transformer.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace tauserve {
namespace {

constexpr int64_t kDefaultKvCacheBytes = int64_t{2} << 30;

AttentionSpec SpecOfLayer(const ModelConfig& config, int layer) {
  AttentionSpec spec;
  spec.num_heads = config.num_heads;
  spec.num_kv_heads = config.num_kv_heads;
  spec.head_dim = config.head_dim;
  spec.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(config.head_dim)));
  spec.sliding_window = config.sliding_window[layer];
  spec.alpha = config.entmax.alpha[layer];
  spec.alibi_slope = config.entmax.alibi_slopes;
  return spec;
}

}  // namespace

Transformer::Transformer(ModelInfo info, ModelConfig config, ModelWeights weights,
                         int32_t max_batched_tokens, Backend* backend)
    : info_(std::move(info)),
      config_(std::move(config)),
      weights_(std::move(weights)),
      max_rows_(max_batched_tokens),
      backend_(backend) {
  if (config_.rope) rope_ = MakeRopeSpec(*config_.rope);
  for (int layer = 0; layer < config_.num_layers; ++layer) {
    attention_.push_back(SpecOfLayer(config_, layer));
  }
  const int64_t queries = int64_t{config_.num_heads} * config_.head_dim;
  residual_ = Allocate(max_rows_, config_.hidden_size);
  normed_ = Allocate(max_rows_, config_.hidden_size);
  attention_input_ = Allocate(max_rows_, weights_.layers[0].attention_input->out_features());
  if (config_.entmax.scale_kind != QueryScaleSpec::Kind::kNone) {
    query_scale_ = Allocate(max_rows_, config_.num_heads, sizeof(float));
  }
  attended_ = Allocate(max_rows_, queries);
  gathered_residual_ = Allocate(max_rows_, config_.hidden_size);
  gathered_attended_ = Allocate(max_rows_, queries);
  gate_up_ = Allocate(max_rows_, 2 * int64_t{config_.intermediate_size});
  activated_ = Allocate(max_rows_, config_.intermediate_size);
  AllocateLogits(std::min<int64_t>(max_rows_, 64));
}

absl::Status Transformer::CreateKvCache(int64_t bytes) {
  if (absl::Status status = backend_->status(); !status.ok()) return status;
  KvCacheSpec cache;
  cache.num_layers = config_.num_layers;
  cache.num_kv_heads = config_.num_kv_heads;
  cache.head_dim = config_.head_dim;
  const int64_t page_bytes = backend_->BytesPerPage(cache);
  if (bytes == 0) {
    const int64_t context_pages = (config_.max_context_tokens + kPageTokens - 1) / kPageTokens;
    const int64_t available = backend_->AvailableMemory();
    if (backend_->device().own_memory) {
      bytes = available / 10 * 9;
    } else {
      bytes = std::max(kDefaultKvCacheBytes, context_pages * page_bytes);
      if (available > 0) bytes = std::min(bytes, available / 2);
    }
  }
  const int64_t pages = bytes / page_bytes;
  if (pages < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("kv_cache_bytes of ", bytes, " is less than one page, ", page_bytes));
  }
  num_pages_ = cache.num_pages = static_cast<int32_t>(std::min<int64_t>(pages, INT32_MAX));
  return backend_->CreateKvCache(cache);
}

absl::Status Transformer::WarmUp() {
  constexpr int32_t kDecodeSteps =
      3;  // the second one is captured as a graph, the third one replays it
  const int64_t most =
      std::min<int64_t>(int64_t{num_pages_} * kPageTokens, config_.max_context_tokens);
  const int32_t prompt = static_cast<int32_t>(std::min<int64_t>(max_rows_, most - kDecodeSteps));
  if (prompt < 1) return absl::OkStatus();
  std::vector<PageId> pages((prompt + kDecodeSteps + kPageTokens - 1) / kPageTokens);
  std::iota(pages.begin(), pages.end(), 0);
  const std::vector<int32_t> tokens(prompt, 0);
  for (int32_t step = 0; step <= kDecodeSteps; ++step) {
    const int32_t rows = step == 0 ? prompt : 1;
    const int32_t context = step == 0 ? 0 : prompt + step - 1;
    const SequenceSlice slice{0, rows, context, pages.data()};
    const int32_t last_row = rows - 1;
    LogitsQuery query;
    query.whole = step == 0;
    query.temperature = 1;
    const StepInput input{
        absl::MakeConstSpan(tokens).subspan(0, rows), {&slice, 1}, {&last_row, 1}, {&query, 1}, {}};
    if (const auto output = Run(input); !output.ok()) return output.status();
  }
  return absl::OkStatus();
}

Transformer::Activation Transformer::Allocate(int64_t rows, int64_t cols) {
  return Allocate(rows, cols, SizeOf(backend_->activation_type()));
}

Transformer::Activation Transformer::Allocate(int64_t rows, int64_t cols, size_t element_size) {
  // Rows begin at multiples of 16 bytes. Widths are such multiples but for odd numbers of scaled heads: no padding
  // elsewhere, since libraries' fast matrix products want dense operands.
  const int64_t stride = (cols + 7) / 8 * 8;
  Activation activation;
  activation.buffer = backend_->Allocate(rows * stride * element_size);
  activation.all = {activation.buffer->data(), rows, cols, stride};
  return activation;
}

Matrix Transformer::Rows(const Matrix& m, int64_t begin, int64_t end) const {
  TAUSERVE_CHECK(begin >= 0 && begin <= end && end <= m.rows, "rows outside a matrix");
  const size_t offset = begin * m.stride * SizeOf(backend_->activation_type());
  return {static_cast<char*>(m.data) + offset, end - begin, m.cols, m.stride};
}

Matrix Transformer::Cols(const Matrix& m, int64_t begin, int64_t end) const {
  TAUSERVE_CHECK(begin >= 0 && begin <= end && end <= m.cols, "columns outside a matrix");
  const size_t offset = begin * SizeOf(backend_->activation_type());
  return {static_cast<char*>(m.data) + offset, m.rows, end - begin, m.stride};
}

absl::StatusOr<StepOutput> Transformer::Run(const StepInput& input) {
  const int64_t rows = input.tokens.size();
  TAUSERVE_CHECK(rows > 0 && rows <= max_rows_, "rows of a step outside [1, max_batched_tokens]");
  for (const int32_t token : input.tokens) {
    TAUSERVE_CHECK(token >= 0 && token < config_.vocab_size, "token outside the vocabulary");
  }
  for (const int32_t row : input.logit_rows) {
    TAUSERVE_CHECK(row >= 0 && row < rows, "logit row outside the step");
  }
  const int64_t logit_rows = input.logit_rows.size();
  TAUSERVE_CHECK(logit_rows <= max_rows_, "more logit rows than max_batched_tokens");
  TAUSERVE_CHECK(input.queries.empty() || input.queries.size() == input.logit_rows.size(),
                 "a query for each logit row");

  backend_->CopyPages(input.page_copies);
  backend_->BeginStep(input.slices);
  Matrix residual = Rows(residual_.all, 0, rows);
  Matrix attended = Rows(attended_.all, 0, rows);
  backend_->Embed(*weights_.embedding, input.tokens, residual);
  for (int layer = 0; layer < config_.num_layers; ++layer) {
    RunAttention(layer, residual, attended);
    if (layer + 1 == config_.num_layers) {
      // Nothing reads the other rows after the last keys and values are in the cache.
      if (logit_rows == 0) break;
      const Matrix all_residual = residual;
      const Matrix all_attended = attended;
      residual = Rows(gathered_residual_.all, 0, logit_rows);
      attended = Rows(gathered_attended_.all, 0, logit_rows);
      backend_->GatherRows(all_residual, input.logit_rows, residual);
      backend_->GatherRows(all_attended, input.logit_rows, attended);
    }
    backend_->LinearAdd(*weights_.layers[layer].attention_output, attended, residual);
    RunMlp(weights_.layers[layer], residual);
  }
  step_logit_rows_ = logit_rows;
  if (logit_rows > 0) RunOutput(residual, input.queries);
  if (absl::Status status = backend_->Synchronize(); !status.ok()) return status;
  StepOutput output;
  output.logits = absl::MakeConstSpan(HostLogits(0), logit_rows * config_.vocab_size);
  if (top_logits_ != nullptr) {
    output.top_logits =
        absl::MakeConstSpan(static_cast<const TopLogits*>(top_logits_->data()), logit_rows);
  }
  output.stats = backend_->stats();
  return output;
}

absl::StatusOr<absl::Span<const float>> Transformer::WholeRow(int64_t logit_row) {
  TAUSERVE_CHECK(logit_row >= 0 && logit_row < step_logit_rows_, "logit row outside the last step");
  if (backend_->device().own_memory) {
    backend_->DownloadFloats(Logits(logit_row, logit_row + 1), HostLogits(logit_row));
    if (absl::Status status = backend_->Synchronize(); !status.ok()) return status;
  }
  return absl::MakeConstSpan(HostLogits(logit_row), config_.vocab_size);
}

void Transformer::RunAttention(int layer, Matrix residual, Matrix attended) {
  const LayerWeights& weights = weights_.layers[layer];
  const int64_t rows = residual.rows;
  const Matrix normed = Rows(normed_.all, 0, rows);
  backend_->RmsNorm(residual, *weights.attention_norm, config_.rms_norm_epsilon, normed);
  const Matrix input = Rows(attention_input_.all, 0, rows);
  backend_->Linear(*weights.attention_input, normed, input);

  const int64_t keys_begin = int64_t{config_.num_heads} * config_.head_dim;
  const int64_t values_begin = keys_begin + int64_t{config_.num_kv_heads} * config_.head_dim;
  const int64_t values_end = 2 * values_begin - keys_begin;
  const Matrix queries = Cols(input, 0, keys_begin);
  const Matrix keys = Cols(input, keys_begin, values_begin);
  const Matrix values = Cols(input, values_begin, values_end);
  if (config_.query_key_norm) {
    backend_->RmsNorm(queries, *weights.query_norm, config_.rms_norm_epsilon, queries);
    backend_->RmsNorm(keys, *weights.key_norm, config_.rms_norm_epsilon, keys);
  }
  if (config_.rope) {
    backend_->Rope(rope_, config_.head_dim, Cols(input, 0, values_begin));  // queries and keys
  }
  Matrix query_scale;
  if (weights.query_scale.kind != QueryScaleSpec::Kind::kNone) {
    query_scale = Rows(query_scale_.all, 0, rows);
    backend_->QueryScale(weights.query_scale, Cols(input, values_end, input.cols), query_scale);
  }
  backend_->AppendKv(layer, keys, values);
  backend_->Attention(layer, attention_[layer], queries, query_scale, attended);
}

void Transformer::RunMlp(const LayerWeights& layer, Matrix residual) {
  const Matrix normed = Rows(normed_.all, 0, residual.rows);
  const Matrix gate_up = Rows(gate_up_.all, 0, residual.rows);
  const Matrix activated = Rows(activated_.all, 0, residual.rows);
  backend_->RmsNorm(residual, *layer.mlp_norm, config_.rms_norm_epsilon, normed);
  backend_->GatedLinear(*layer.gate_up, config_.activation, normed, gate_up, activated);
  backend_->LinearAdd(*layer.down, activated, residual);
}

void Transformer::AllocateLogits(int64_t rows) {
  const int64_t vocab = config_.vocab_size;
  device_logits_ = backend_->Allocate(rows * vocab * sizeof(float));
  logits_ = {device_logits_->data(), rows, vocab, vocab};
  if (!backend_->device().own_memory) return;
  host_logits_ = backend_->AllocateHost(rows * vocab * sizeof(float));
  top_logits_ = backend_->AllocateHost(rows * sizeof(TopLogits));
  whole_rows_.resize(rows);
}

Matrix Transformer::Logits(int64_t begin, int64_t end) const {
  float* first = static_cast<float*>(logits_.data) + begin * logits_.stride;
  return {first, end - begin, logits_.cols, logits_.stride};
}

float* Transformer::HostLogits(int64_t row) const {
  DeviceBuffer& readable = host_logits_ != nullptr ? *host_logits_ : *device_logits_;
  return static_cast<float*>(readable.data()) + row * config_.vocab_size;
}

void Transformer::RunOutput(Matrix hidden, absl::Span<const LogitsQuery> queries) {
  const int64_t rows = hidden.rows;
  const Matrix normed = Rows(normed_.all, 0, rows);
  backend_->RmsNorm(hidden, *weights_.final_norm, config_.rms_norm_epsilon, normed);
  if (rows > logits_.rows) AllocateLogits(std::min<int64_t>(max_rows_, 2 * rows));
  backend_->LinearToFloat(*weights_.output, normed, Logits(0, rows));
  if (!backend_->device().own_memory) return;

  // In steps without such rows too: then decode steps differ in fewer ways, and there are fewer graphs of them.
  if (queries.empty()) queries = absl::MakeConstSpan(whole_rows_).subspan(0, rows);
  backend_->SelectTopLogits(Logits(0, rows), queries, static_cast<TopLogits*>(top_logits_->data()));
  for (int64_t begin = 0, end; begin < rows; begin = end) {
    end = begin + 1;
    if (!queries[begin].whole) continue;
    while (end < rows && queries[end].whole) ++end;
    backend_->DownloadFloats(Logits(begin, end), HostLogits(begin));
  }
}

}  // namespace tauserve
