#include "tests/kernels/test_device.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>

#include "kernels/cpu/isa.h"
#include "kernels/host_floats.h"

namespace tauserve {

std::string TestDevice() {
  const char* device = std::getenv("TAUSERVE_TEST_DEVICE");
  return device != nullptr ? device : "cpu";
}

std::vector<std::string> TestTargets() {
  if (OnGpu()) return {"cuda"};
  std::vector<std::string> names;
  for (cpu::Isa isa : cpu::AvailableIsas()) names.push_back(cpu::NameOf(isa));
  return names;
}

std::vector<DataType> TestKvTypes() {
  if (OnGpu()) return {DataType::kBFloat16};
  return {DataType::kFloat32, DataType::kBFloat16};
}

std::string TargetName(const std::tuple<std::string, DataType>& target_and_type) {
  return std::get<0>(target_and_type) + "_" + NameOf(std::get<1>(target_and_type));
}

std::unique_ptr<Backend> MakeTestBackend(const std::string& target, DataType kv_type, int threads) {
  BackendOptions options;
  options.device = TestDevice();
  options.threads = threads;
  options.kv_type = kv_type;
  if (!OnGpu()) setenv("TAUSERVE_CPU_ISA", target.c_str(), 1);
  auto backend = CreateBackend(options);
  unsetenv("TAUSERVE_CPU_ISA");
  EXPECT_TRUE(backend.ok()) << backend.status();
  return std::move(*backend);
}

TestMatrix::TestMatrix(Backend& backend, int64_t rows, int64_t cols, int64_t stride, DataType type)
    : type_(type),
      buffer_(backend.AllocateHost(rows * stride * SizeOf(type))),
      matrix_{buffer_->data(), rows, cols, stride} {
  Fill(0);
}

TestMatrix::TestMatrix(Backend& backend, int64_t rows, int64_t cols)
    : TestMatrix(backend, rows, cols, cols, backend.activation_type()) {}

TestMatrix::TestMatrix(Backend& backend, int64_t rows, int64_t cols,
                       const std::vector<float>& values)
    : TestMatrix(backend, rows, cols) {
  Set(values);
}

void TestMatrix::Put(int64_t row, int64_t col, float value) {
  char* at = static_cast<char*>(matrix_.data) + (row * matrix_.stride + col) * SizeOf(type_);
  if (type_ == DataType::kFloat32) {
    std::memcpy(at, &value, 4);
  } else {
    const uint16_t half = FloatToBFloat16(value);
    std::memcpy(at, &half, 2);
  }
}

void TestMatrix::Set(const std::vector<float>& values) {
  for (int64_t r = 0; r < matrix_.rows; r++) {
    for (int64_t c = 0; c < matrix_.cols; c++) Put(r, c, values[r * matrix_.cols + c]);
  }
}

void TestMatrix::Fill(float value) {
  for (int64_t r = 0; r < matrix_.rows; r++) {
    for (int64_t c = 0; c < matrix_.stride; c++) Put(r, c, value);
  }
}

float TestMatrix::At(int64_t row, int64_t col) const {
  return ElementAsFloat(matrix_.data, type_, row * matrix_.stride + col);
}

std::vector<float> TestMatrix::Get() const {
  std::vector<float> values;
  for (int64_t r = 0; r < matrix_.rows; r++) {
    for (int64_t c = 0; c < matrix_.cols; c++) values.push_back(At(r, c));
  }
  return values;
}

}  // namespace tauserve
