// Choosing a device: what a machine without a usable GPU, and a build without CUDA, say. A machine's GPU is hidden.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "kernels/backend.h"

namespace tauserve {
namespace {

using testing::Contains;
using testing::HasSubstr;

bool BuiltWithCuda() { return testing::Value(CompiledDevices(), Contains("cuda")); }

class HiddenGpu : public testing::Environment {
 public:
  void SetUp() override { setenv("CUDA_VISIBLE_DEVICES", "-1", 1); }
};
const auto* const hidden_gpu = testing::AddGlobalTestEnvironment(new HiddenGpu);

absl::Status StatusOf(const BackendOptions& options) { return CreateBackend(options).status(); }

TEST(FactoryTest, KnowsItsDevices) {
  EXPECT_THAT(CompiledDevices(), Contains("cpu"));
  BackendOptions options;
  options.device = "tpu";
  EXPECT_EQ(StatusOf(options).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(StatusOf(options).message()), HasSubstr("tpu"));
}

TEST(FactoryTest, TheCpuIsThereWhateverTheGpu) {
  BackendOptions options;
  options.device = "cpu";
  const auto backend = CreateBackend(options);
  ASSERT_TRUE(backend.ok()) << backend.status();
  EXPECT_THAT((*backend)->device().name, HasSubstr("cpu"));
  EXPECT_FALSE((*backend)->device().own_memory);
  EXPECT_GT((*backend)->AvailableMemory(), 0);
}

TEST(FactoryTest, AutoIsTheCpuWhereThereIsNoGpu) {
  const auto backend = CreateBackend(BackendOptions());
  ASSERT_TRUE(backend.ok()) << backend.status();
  EXPECT_THAT((*backend)->device().name, HasSubstr("cpu"));
}

TEST(FactoryTest, SaysWhyThereIsNoGpu) {
  BackendOptions options;
  options.device = "cuda";
  const absl::Status status = StatusOf(options);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr(BuiltWithCuda() ? "there is no NVIDIA" : "not built into"));
}

TEST(FactoryTest, NamesTheTypeThatTheGpuDoesNotHave) {
  if (!BuiltWithCuda()) GTEST_SKIP() << "built without CUDA";
  BackendOptions options;
  options.device = "cuda";
  options.kv_type = DataType::kFloat32;
  EXPECT_EQ(StatusOf(options).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(StatusOf(options).message()), HasSubstr("--kv_dtype is float32"));
  options.kv_type.reset();
  options.compute_type = DataType::kFloat16;
  EXPECT_THAT(std::string(StatusOf(options).message()), HasSubstr("--dtype is float16"));
}

}  // namespace
}  // namespace tauserve
