// The model that comes with the project, on the CPU or the GPU (tests/kernels/test_device.h), against the logits and
// greedy tokens of its training code, which models/recall-9m/reference.json holds.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "server/model/transformer.h"
#include "tests/kernels/test_device.h"
#include "tests/server/model/sequence_runner.h"

namespace tauserve {
namespace {

constexpr char kFolder[] = "models/recall-9m";

struct Compared {
  double largest_difference = 0;  // of the stored logits
  int different_tokens = 0;       // greedy tokens from the first one that differs, over all prompts
};

std::unique_ptr<Backend> MakeBackend(DataType compute_type, DataType kv_type) {
  BackendOptions options;
  options.device = TestDevice();
  options.threads = 2;
  options.compute_type = compute_type;
  options.kv_type = kv_type;
  absl::StatusOr<std::unique_ptr<Backend>> backend = CreateBackend(options);
  EXPECT_TRUE(backend.ok()) << backend.status();
  return *std::move(backend);
}

Compared Compare(DataType compute_type, DataType kv_type, int chunk) {
  const std::unique_ptr<Backend> backend = MakeBackend(compute_type, kv_type);
  ModelOptions model_options;
  model_options.kv_cache_bytes = 64 << 20;
  const auto model = LoadModel(kFolder, backend.get(), model_options);
  EXPECT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->info().parameters, 9440320);
  EXPECT_EQ((*model)->info().name, "recall-9m");

  std::ifstream file(std::string(kFolder) + "/reference.json");
  const nlohmann::json reference = nlohmann::json::parse(file);
  EXPECT_EQ(reference["prompts"].size(), 6);
  SequenceRunner runner(model->get(), 7);
  Compared result;
  for (const nlohmann::json& prompt : reference["prompts"]) {
    const std::vector<int32_t> expected = prompt["greedy"];
    std::vector<float> logits;
    const std::vector<int32_t> tokens =
        runner.Greedy(prompt["ids"], expected.size(), chunk, &logits);
    double largest = 0;
    for (const nlohmann::json& entry : prompt["top"]) {
      const double difference = logits[entry[0].get<int>()] - entry[1].get<double>();
      largest = std::max(largest, std::abs(difference));
    }
    const auto differ = std::mismatch(tokens.begin(), tokens.end(), expected.begin()).first;
    std::cout << NameOf(compute_type) << ", cache " << NameOf(kv_type) << ", " << prompt["name"]
              << ": largest logit difference " << largest << ", " << tokens.end() - differ
              << " greedy tokens differ\n";
    result.largest_difference = std::max(result.largest_difference, largest);
    result.different_tokens += tokens.end() - differ;
  }
  return result;
}

TEST(EmbeddedModelTest, Float32EqualsTheReference) {
  if (OnGpu()) GTEST_SKIP() << "the GPU computes in bfloat16";
  for (const int chunk : {2048, 300}) {
    const Compared result = Compare(DataType::kFloat32, DataType::kFloat32, chunk);
    EXPECT_LT(result.largest_difference, 1e-3);
    EXPECT_EQ(result.different_tokens, 0);
  }
}

// Rounding keys, values and operands to 8 bits of mantissa moves logits by up to 0.05, and with
// them a near tie between two tokens here and there.
TEST(EmbeddedModelTest, BFloat16StaysClose) {
  std::vector<DataType> compute_types = {DataType::kBFloat16};
  if (!OnGpu()) {
    const bool native = MakeBackend(DataType::kFloat32, DataType::kFloat32)->device().native_bf16;
    compute_types = {DataType::kFloat32};
    if (native) compute_types.push_back(DataType::kBFloat16);
  }
  for (const DataType compute_type : compute_types) {
    const Compared result = Compare(compute_type, DataType::kBFloat16, 2048);
    EXPECT_LT(result.largest_difference, 0.1);
    EXPECT_LT(result.different_tokens, 192 / 3);
  }
}

}  // namespace
}  // namespace tauserve
