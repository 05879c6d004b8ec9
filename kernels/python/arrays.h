// Plain strided arrays, as Python hands them over, and the float32 that kernels read and write.
#ifndef TAUSERVE_KERNELS_PYTHON_ARRAYS_H_
#define TAUSERVE_KERNELS_PYTHON_ARRAYS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/tensor.h"

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

// An array as float32 of its shape: itself, whatever its strides, or a converted copy.
class Floats {
 public:
  explicit Floats(const Array& array);
  const Array& array() const { return array_; }

 private:
  std::vector<float> copy_;
  Array array_;
};

// A float32 array to write to: the given one, or a buffer that Finish() converts into it.
class OutputFloats {
 public:
  explicit OutputFloats(const Array& array);
  const Array& array() const { return floats_; }
  void Finish();

 private:
  Array given_;
  std::vector<float> buffer_;
  Array floats_;
};

// Throws std::invalid_argument, which is Python's ValueError.
void Require(bool holds, const std::string& otherwise);

}  // namespace tauserve::python

#endif  // TAUSERVE_KERNELS_PYTHON_ARRAYS_H_
