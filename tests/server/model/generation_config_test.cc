#include "server/model/generation_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/status/status.h"
#include "tests/server/model/model_folder.h"

namespace tauserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

absl::StatusOr<GenerationConfig> Load(const std::string& text) {
  TemporaryFolder folder;
  folder.Write("generation_config.json", text);
  return LoadGenerationConfig(folder.path(), 100);
}

TEST(GenerationConfigTest, AFolderWithoutTheFileHasTheDefaults) {
  TemporaryFolder folder;
  const absl::StatusOr<GenerationConfig> config = LoadGenerationConfig(folder.path(), 100);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->sampling.temperature, 1);
  EXPECT_EQ(config->sampling.top_p, 1);
  EXPECT_THAT(config->eos_token_ids, IsEmpty());
}

TEST(GenerationConfigTest, ReadsAllKeys) {
  const absl::StatusOr<GenerationConfig> config = Load(
      R"({"do_sample": true, "temperature": 0.7, "top_k": 40, "top_p": 0.9, "min_p": 0.05,
          "typical_p": 0.8, "repetition_penalty": 1.1, "eos_token_id": [3, 99], "_from": 1})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_FLOAT_EQ(config->sampling.temperature, 0.7);
  EXPECT_EQ(config->sampling.top_k, 40);
  EXPECT_FLOAT_EQ(config->sampling.top_p, 0.9);
  EXPECT_FLOAT_EQ(config->sampling.min_p, 0.05);
  EXPECT_FLOAT_EQ(config->sampling.typical_p, 0.8);
  EXPECT_FLOAT_EQ(config->sampling.repetition_penalty, 1.1);
  EXPECT_THAT(config->eos_token_ids, ElementsAre(3, 99));
}

TEST(GenerationConfigTest, NotSamplingIsGreedy) {
  EXPECT_TRUE(Load(R"({"do_sample": false, "temperature": 0.6})")->sampling.greedy());
  EXPECT_FALSE(Load(R"({"temperature": 0.6, "top_p": null})")->sampling.greedy());
}

TEST(GenerationConfigTest, RefusesBadValues) {
  const struct {
    const char* text;
    const char* message;
  } kCases[] = {
      {"{", "not valid JSON"},
      {"3", "must be a JSON object"},
      {R"({"temperature": -1})", "temperature is -1, must be a number in [0, 100]"},
      {R"({"temperature": "hot"})", "temperature is \"hot\""},
      {R"({"top_k": 1.5})", "top_k is 1.5"},
      {R"({"top_k": -1})", "top_k is -1"},
      {R"({"top_p": 0})", "top_p is 0, must be a number in (0, 1]"},
      {R"({"top_p": 1.1})", "top_p is 1.1"},
      {R"({"min_p": 2})", "min_p is 2"},
      {R"({"typical_p": 0})", "typical_p is 0"},
      {R"({"repetition_penalty": 0})", "repetition_penalty is 0"},
      {R"({"do_sample": "yes"})", "do_sample is \"yes\""},
      {R"({"eos_token_id": 100})", "eos_token_id is 100, must be an integer in [0, 99]"},
  };
  for (const auto& c : kCases) {
    const absl::Status status = Load(c.text).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << c.text;
    EXPECT_THAT(std::string(status.message()), HasSubstr("generation_config.json"));
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
}

}  // namespace
}  // namespace tauserve
