// The device that tests of kernels run on: by default the CPU with each instruction set of the machine, with the
// environment's TAUSERVE_TEST_DEVICE=cuda the GPU. The same test bodies run on all.
#ifndef TAUSERVE_TESTS_KERNELS_TEST_DEVICE_H_
#define TAUSERVE_TESTS_KERNELS_TEST_DEVICE_H_

#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/backend.h"

namespace tauserve {

// "cpu" or "cuda".
std::string TestDevice();
inline bool OnGpu() { return TestDevice() == "cuda"; }

// What tests are repeated with: names of the instruction sets of this machine (for TAUSERVE_CPU_ISA), or "cuda".
std::vector<std::string> TestTargets();
// Types of the cache that the device has.
std::vector<DataType> TestKvTypes();
std::string TargetName(const std::tuple<std::string, DataType>& target_and_type);

// A backend on one of TestTargets().
std::unique_ptr<Backend> MakeTestBackend(const std::string& target, DataType kv_type,
                                         int threads = 2);

// A matrix that both the test and the device can reach. Operations that use it must have ended before it is read, with
// Synchronize, or destroyed.
class TestMatrix {
 public:
  // Of `type`, or the backend's activation type.
  TestMatrix(Backend& backend, int64_t rows, int64_t cols, int64_t stride, DataType type);
  TestMatrix(Backend& backend, int64_t rows, int64_t cols);
  TestMatrix(Backend& backend, int64_t rows, int64_t cols, const std::vector<float>& values);

  const Matrix& matrix() const { return matrix_; }
  // [rows * cols]; rounded to the matrix's type.
  void Set(const std::vector<float>& values);
  void Fill(float value);  // what lies between the rows as well
  std::vector<float> Get() const;
  float At(int64_t row, int64_t col) const;  // col < stride

 private:
  void Put(int64_t row, int64_t col, float value);

  DataType type_;
  std::unique_ptr<DeviceBuffer> buffer_;
  Matrix matrix_;
};

}  // namespace tauserve

#endif  // TAUSERVE_TESTS_KERNELS_TEST_DEVICE_H_
