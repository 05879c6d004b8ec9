#include "server/model/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/status/status.h"
#include "tests/server/model/model_folder.h"

namespace tauserve {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kIndex[] = "model.safetensors.index.json";

std::string OneTensor(const std::string& name) {
  return SafetensorsBytes(
      R"({")" + name + R"(":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}})",
      std::string(16, 'x'));
}

std::string OpenError(const TemporaryFolder& folder) {
  return std::string(Checkpoint::Open(folder.path()).status().message());
}

TEST(CheckpointTest, FindsTensorsInShards) {
  TemporaryFolder folder;
  folder.Write("one.safetensors", OneTensor("a"));
  folder.Write("two.safetensors", OneTensor("b"));
  folder.Write(kIndex, R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  const absl::StatusOr<Checkpoint> checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_TRUE(checkpoint->Contains("a"));
  EXPECT_TRUE(checkpoint->Find("a", {2, 2}).ok());
  EXPECT_TRUE(checkpoint->Find("b", {2, 2}).ok());
  EXPECT_THAT(std::string(checkpoint->Find("b", {4}).status().message()),
              AllOf(HasSubstr("two.safetensors"), HasSubstr("tensor b"), HasSubstr("[2, 2]"),
                    HasSubstr("[4]")));
  EXPECT_THAT(
      std::string(checkpoint->Find("c", {4, 1}).status().message()),
      AllOf(HasSubstr(kIndex), HasSubstr("tensor c"), HasSubstr("missing"), HasSubstr("[4, 1]")));
}

TEST(CheckpointTest, NamesWhatIsNotThere) {
  TemporaryFolder folder;
  EXPECT_TRUE(absl::IsNotFound(Checkpoint::Open(folder.path()).status()));
  EXPECT_THAT(OpenError(folder), AllOf(HasSubstr(folder.path()), HasSubstr(kIndex)));
  folder.Write(kIndex, R"({"weight_map":{"a":"one.safetensors"}})");
  EXPECT_THAT(OpenError(folder), HasSubstr("one.safetensors: No such file"));
  folder.Write("one.safetensors", OneTensor("other"));
  EXPECT_THAT(OpenError(folder),
              AllOf(HasSubstr("one.safetensors: tensor a is missing"), HasSubstr(kIndex)));
}

TEST(CheckpointTest, RefusesABadIndex) {
  TemporaryFolder folder;
  folder.Write("one.safetensors", OneTensor("a"));
  folder.Write(kIndex, "{");
  EXPECT_THAT(OpenError(folder), AllOf(HasSubstr(kIndex), HasSubstr("not valid JSON")));
  folder.Write(kIndex, "[1]");
  EXPECT_THAT(OpenError(folder), HasSubstr("weight_map"));
  folder.Write(kIndex, R"({"weight_map":[]})");
  EXPECT_THAT(OpenError(folder), HasSubstr("weight_map"));
  for (const char* file : {"\"../one.safetensors\"", "\"/etc/passwd\"", "\"\"", "3", "\"..\""}) {
    folder.Write(kIndex, std::string(R"({"weight_map":{"a":)") + file + "}}");
    EXPECT_THAT(OpenError(folder), AllOf(HasSubstr("tensor a"), HasSubstr("in this folder")));
  }
}

}  // namespace
}  // namespace tauserve
