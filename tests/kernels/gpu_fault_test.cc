// A kernel that faults makes the step's status, and that of every step after it. A process of its own: nothing works on
// the GPU afterwards.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/kernels/test_device.h"

namespace tauserve {
namespace {

TEST(GpuFaultTest, IsTheStatusOfItsStepAndOfAllThatFollow) {
  if (!OnGpu()) GTEST_SKIP() << "TAUSERVE_TEST_DEVICE is not cuda";
  const auto backend = MakeTestBackend("cuda", DataType::kBFloat16);
  const std::vector<float> ones(64, 1.0f);
  const auto weight = backend->LoadVector({ones.data(), DataType::kFloat32, {64}});
  const auto out = backend->Allocate(2 * 64 * SizeOf(DataType::kBFloat16));
  const PageId page = 0;
  const SequenceSlice slice{0, 2, 0, &page};
  const Matrix nowhere{reinterpret_cast<void*>(uintptr_t{1} << 12), 2, 64, 64};
  for (int step = 0; step < 3; step++) {
    backend->BeginStep({&slice, 1});
    backend->RmsNorm(nowhere, *weight, 1e-5f, {out->data(), 2, 64, 64});
    const absl::Status status = backend->Synchronize();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("illegal memory access"));
    EXPECT_EQ(backend->status(), status);
  }
}

}  // namespace
}  // namespace tauserve
