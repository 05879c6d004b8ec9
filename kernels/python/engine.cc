#include "kernels/python/engine.h"

#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/half.h"

namespace tauserve::python {
namespace {

// Calls visit(row number, offset in elements) for every row, the last leading dimension fastest.
template <typename Visit>
void ForEachRow(const Array& array, int leading_dims, const Visit& visit) {
  std::vector<int64_t> index(leading_dims, 0);
  int64_t rows = 1;
  for (int d = 0; d < leading_dims; d++) rows *= array.shape[d];
  for (int64_t row = 0; row < rows; row++) {
    int64_t offset = 0;
    for (int d = 0; d < leading_dims; d++) offset += index[d] * array.stride[d];
    visit(row, offset);
    for (int d = leading_dims - 1; d >= 0 && ++index[d] == array.shape[d]; d--) index[d] = 0;
  }
}

int64_t Product(const std::vector<int64_t>& shape, int from, int to) {
  int64_t n = 1;
  for (int d = from; d < to; d++) n *= shape[d];
  return n;
}

// Whether dimensions [from, to) are one: the distance of neighbours there is the last one's stride.
bool IsDense(const Array& array, int from, int to) {
  int64_t distance = array.stride[to - 1];
  for (int d = to - 1; d >= from; d--) {
    if (array.shape[d] != 1 && array.stride[d] != distance) return false;
    distance *= array.shape[d];
  }
  return true;
}

// The rows where they lie, if that is possible; else a matrix without data.
Matrix InPlace(const Array& array, int leading_dims) {
  const int dims = static_cast<int>(array.shape.size());
  Matrix m;
  m.rows = Product(array.shape, 0, leading_dims);
  m.cols = m.stride = Product(array.shape, leading_dims, dims);
  const bool rows = IsDense(array, 0, leading_dims), cols = IsDense(array, leading_dims, dims);
  const int64_t stride = array.stride[leading_dims - 1];
  if (array.type != DataType::kFloat32 || !rows || !cols || stride < m.cols) return m;
  m.data = array.data;
  m.stride = stride;
  return m;
}

}  // namespace

void Require(bool holds, const std::string& otherwise) {
  if (!holds) throw std::invalid_argument(otherwise);
}

Rows::Rows(const Array& array, int leading_dims) : matrix_(InPlace(array, leading_dims)) {
  if (matrix_.data) return;
  copy_.resize(matrix_.rows * matrix_.cols);
  matrix_.data = copy_.data();
  // All dimensions but the last are walked: those behind the leading ones may be strided as well.
  const int dims = static_cast<int>(array.shape.size());
  const int64_t n = array.shape[dims - 1];
  ForEachRow(array, dims - 1, [&](int64_t row, int64_t offset) {
    float* to = copy_.data() + row * n;
    if (array.type == DataType::kFloat32) {
      std::memcpy(to, static_cast<const float*>(array.data) + offset, n * sizeof(float));
    } else {
      const uint16_t* from = static_cast<const uint16_t*>(array.data) + offset;
      for (int64_t i = 0; i < n; i++) to[i] = BFloat16ToFloat(from[i]);
    }
  });
}

OutputRows::OutputRows(const Array& array, int leading_dims)
    : array_(array), matrix_(InPlace(array, leading_dims)) {
  if (matrix_.data) return;
  buffer_.resize(matrix_.rows * matrix_.cols);
  matrix_.data = buffer_.data();
}

void OutputRows::Finish() {
  if (buffer_.empty()) return;
  const int dims = static_cast<int>(array_.shape.size());
  const int64_t n = array_.shape[dims - 1];
  ForEachRow(array_, dims - 1, [&](int64_t row, int64_t offset) {
    const float* from = buffer_.data() + row * n;
    if (array_.type == DataType::kFloat32) {
      std::memcpy(static_cast<float*>(array_.data) + offset, from, n * sizeof(float));
    } else {
      uint16_t* to = static_cast<uint16_t*>(array_.data) + offset;
      for (int64_t i = 0; i < n; i++) to[i] = FloatToBFloat16(from[i]);
    }
  });
}

Engine::Engine(int num_pages, int num_kv_heads, int head_dim, DataType type, int num_threads)
    : num_pages_(num_pages),
      num_kv_heads_(num_kv_heads),
      head_dim_(head_dim),
      num_threads_(num_threads),
      type_(type) {
  Require(head_dim % 16 == 0 && head_dim >= 32 && head_dim <= 256,
          absl::StrCat("head_dim is ", head_dim, ", not a multiple of 16 in [32, 256]"));
  BackendOptions options;
  options.device = "cpu";
  options.threads = num_threads;
  options.kv_type = type;
  absl::StatusOr<std::unique_ptr<Backend>> backend = CreateBackend(options);
  Require(backend.ok(), std::string(backend.status().message()));
  backend_ = *std::move(backend);
  const absl::Status status = backend_->CreateKvCache({1, num_kv_heads, head_dim, num_pages});
  Require(status.ok(), std::string(status.message()));
}

void Engine::Append(absl::Span<const SequenceSlice> slices, Matrix keys, Matrix values) {
  backend_->BeginStep(slices);
  backend_->AppendKv(0, keys, values);
  Finish();
}

void Engine::Finish() {
  const absl::Status status = backend_->Synchronize();
  if (!status.ok()) throw std::runtime_error(std::string(status.message()));
}

AttentionStats Engine::Attend(absl::Span<const SequenceSlice> slices, const AttentionSpec& spec,
                              Matrix q, Matrix out) {
  backend_->BeginStep(slices);
  backend_->Attention(0, spec, q, {}, out);
  Finish();
  AttentionStats stats;
  for (const AttentionStats& s : backend_->stats()) stats.Add(s);
  return stats;
}

}  // namespace tauserve::python
