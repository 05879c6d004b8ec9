// Attention over a paged cache of one layer, on plain strided arrays: what the Python functions call.
#ifndef TAUSERVE_KERNELS_PYTHON_ENGINE_H_
#define TAUSERVE_KERNELS_PYTHON_ENGINE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace tauserve::python {

// An array of any strides (in elements) whose last dimension is contiguous. float32 or bfloat16.
struct Array {
  void* data = nullptr;
  DataType type = DataType::kFloat32;
  std::vector<int64_t> shape;
  std::vector<int64_t> stride;
};

// Rows of an array as float32: where they lie, or converted.
class Rows {
 public:
  // Rows [n][cols] in the order of the array's leading dimensions; cols covers its trailing dimensions.
  Rows(const Array& array, int leading_dims);
  Matrix matrix() const { return matrix_; }

 private:
  std::vector<float> copy_;
  Matrix matrix_;
};

// float32 rows to write to: the array's own, or a buffer that Finish() copies and converts.
class OutputRows {
 public:
  OutputRows(const Array& array, int leading_dims);
  Matrix matrix() const { return matrix_; }
  void Finish();

 private:
  Array array_;
  std::vector<float> buffer_;
  Matrix matrix_;
};

// A cache and the backend that owns it. Not for use by several threads at once.
class Engine {
 public:
  Engine(int num_pages, int num_kv_heads, int head_dim, DataType type, int num_threads);

  int num_pages() const { return num_pages_; }
  int num_kv_heads() const { return num_kv_heads_; }
  int head_dim() const { return head_dim_; }
  DataType type() const { return type_; }
  int num_threads() const { return num_threads_; }

  void Append(absl::Span<const SequenceSlice> slices, Matrix keys, Matrix values);
  AttentionStats Attend(absl::Span<const SequenceSlice> slices, const AttentionSpec& spec, Matrix q,
                        Matrix out);

 private:
  void Finish();  // throws what the device failed with

  int num_pages_, num_kv_heads_, head_dim_, num_threads_;
  DataType type_;
  std::unique_ptr<Backend> backend_;
};

// Throws std::invalid_argument, which is Python's ValueError.
void Require(bool holds, const std::string& otherwise);

}  // namespace tauserve::python

#endif  // TAUSERVE_KERNELS_PYTHON_ENGINE_H_
