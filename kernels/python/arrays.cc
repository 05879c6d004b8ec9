#include "kernels/python/arrays.h"

#include <cstring>
#include <stdexcept>

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

// The array's rows along its last dimension, packed, to `to`.
void ReadFloats(const Array& array, float* to) {
  const int dims = static_cast<int>(array.shape.size());
  const int64_t n = array.shape[dims - 1];
  ForEachRow(array, dims - 1, [&](int64_t row, int64_t offset) {
    float* out = to + row * n;
    if (array.type == DataType::kFloat32) {
      std::memcpy(out, static_cast<const float*>(array.data) + offset, n * sizeof(float));
    } else {
      const uint16_t* from = static_cast<const uint16_t*>(array.data) + offset;
      for (int64_t i = 0; i < n; i++) out[i] = BFloat16ToFloat(from[i]);
    }
  });
}

// And back.
void WriteFloats(const float* floats, const Array& array) {
  const int dims = static_cast<int>(array.shape.size());
  const int64_t n = array.shape[dims - 1];
  ForEachRow(array, dims - 1, [&](int64_t row, int64_t offset) {
    const float* from = floats + row * n;
    if (array.type == DataType::kFloat32) {
      std::memcpy(static_cast<float*>(array.data) + offset, from, n * sizeof(float));
    } else {
      uint16_t* to = static_cast<uint16_t*>(array.data) + offset;
      for (int64_t i = 0; i < n; i++) to[i] = FloatToBFloat16(from[i]);
    }
  });
}

// float32 of the array's shape, packed.
Array Packed(const Array& array, std::vector<float>& memory) {
  const int dims = static_cast<int>(array.shape.size());
  memory.resize(Product(array.shape, 0, dims));
  Array packed;
  packed.data = memory.data();
  packed.shape = array.shape;
  for (int d = 0; d < dims; d++) packed.stride.push_back(Product(array.shape, d + 1, dims));
  return packed;
}

}  // namespace

void Require(bool holds, const std::string& otherwise) {
  if (!holds) throw std::invalid_argument(otherwise);
}

Rows::Rows(const Array& array, int leading_dims) : matrix_(InPlace(array, leading_dims)) {
  if (matrix_.data) return;
  copy_.resize(matrix_.rows * matrix_.cols);
  matrix_.data = copy_.data();
  ReadFloats(array, copy_.data());
}

OutputRows::OutputRows(const Array& array, int leading_dims)
    : array_(array), matrix_(InPlace(array, leading_dims)) {
  if (matrix_.data) return;
  buffer_.resize(matrix_.rows * matrix_.cols);
  matrix_.data = buffer_.data();
}

void OutputRows::Finish() {
  if (buffer_.empty()) return;
  WriteFloats(buffer_.data(), array_);
}

Floats::Floats(const Array& array) {
  if (array.type == DataType::kFloat32) {
    array_ = array;
    return;
  }
  array_ = Packed(array, copy_);
  ReadFloats(array, copy_.data());
}

OutputFloats::OutputFloats(const Array& array) : given_(array) {
  floats_ = array.type == DataType::kFloat32 ? array : Packed(array, buffer_);
}

void OutputFloats::Finish() {
  if (!buffer_.empty()) WriteFloats(buffer_.data(), given_);
}

}  // namespace tauserve::python
