#include "server/model/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cctype>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tests/server/model/model_folder.h"

namespace tauserve {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Opens a file of these bytes and gives its error.
absl::Status Open(const std::string& bytes) {
  TemporaryFolder folder;
  folder.Write("x.safetensors", bytes);
  return SafetensorsFile::Open(folder.File("x.safetensors")).status();
}

// The same with a header and 16 bytes of data.
absl::Status OpenHeader(const std::string& header) {
  return Open(SafetensorsBytes(header, std::string(16, 'x')));
}

std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST(SafetensorsTest, ReadsEveryWeightType) {
  TemporaryFolder folder;
  const std::string header = R"({"__metadata__":{"format":"pt"},)"
                             R"("a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},)"
                             R"("b":{"dtype":"BF16","shape":[2],"data_offsets":[8,12]},)"
                             R"("c":{"dtype":"F16","shape":[2,1],"data_offsets":[12,16]},)"
                             R"("empty":{"dtype":"F32","shape":[0,5],"data_offsets":[16,16]},)"
                             R"("ids":{"dtype":"I64","shape":[],"data_offsets":[16,24]}}  )";
  std::string data(24, '\0');
  const float values[] = {1.5f, -2.f};
  std::memcpy(data.data(), values, 8);
  folder.Write("x.safetensors", SafetensorsBytes(header, data));
  const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(folder.File("x.safetensors"));
  ASSERT_TRUE(file.ok()) << file.status();
  const absl::StatusOr<HostTensor> a = file->Find("a");
  ASSERT_TRUE(a.ok()) << a.status();
  EXPECT_EQ(a->type, DataType::kFloat32);
  EXPECT_EQ(a->shape, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(std::memcmp(a->data, values, 8), 0);
  EXPECT_EQ(file->Find("b")->type, DataType::kBFloat16);
  EXPECT_EQ(file->Find("c")->type, DataType::kFloat16);
  EXPECT_EQ(file->Find("empty")->size(), 0);
  EXPECT_THAT(Message(file->Find("ids").status()),
              AllOf(HasSubstr("ids"), HasSubstr("I64"), HasSubstr("BF16")));
  EXPECT_TRUE(absl::IsNotFound(file->Find("d").status()));
  EXPECT_EQ(file->Names().size(), 5);
}

TEST(SafetensorsTest, NamesAFileThatIsNotThere) {
  const absl::Status status = SafetensorsFile::Open("/nonexistent/x.safetensors").status();
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_THAT(Message(status), HasSubstr("/nonexistent/x.safetensors"));
  EXPECT_TRUE(absl::IsInvalidArgument(SafetensorsFile::Open("/tmp").status()));
}

TEST(SafetensorsTest, RefusesTruncatedFiles) {
  EXPECT_THAT(Message(Open("")), HasSubstr("is empty"));
  EXPECT_THAT(Message(Open("1234567")), AllOf(HasSubstr("truncated"), HasSubstr("7 bytes")));
  const std::string whole = SafetensorsBytes(
      R"({"t":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})", std::string(16, 'x'));
  ASSERT_TRUE(Open(whole).ok());
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_FALSE(Open(whole.substr(0, size)).ok()) << size;
  }
  EXPECT_THAT(Message(Open(whole.substr(0, whole.size() - 1))),
              AllOf(HasSubstr("tensor t"), HasSubstr("16"), HasSubstr("15")));
  EXPECT_THAT(Message(Open(whole + "x")), HasSubstr("the tensors end at byte"));
}

TEST(SafetensorsTest, RefusesAbsurdHeaderSizes) {
  EXPECT_THAT(Message(Open(std::string(8, '\xff') + "{}")),
              AllOf(HasSubstr("18446744073709551615"), HasSubstr("100000000")));
  EXPECT_THAT(Message(Open(std::string("\x7f\0\0\0\0\0\0\0{}", 10))),
              AllOf(HasSubstr("135"), HasSubstr("10")));
}

TEST(SafetensorsTest, RefusesBrokenHeaders) {
  EXPECT_THAT(Message(OpenHeader(R"({"t":)")), HasSubstr("not valid JSON"));
  EXPECT_THAT(Message(OpenHeader("\xff\xfe")), HasSubstr("not valid JSON"));
  EXPECT_THAT(Message(OpenHeader("[]")), HasSubstr("must be a JSON object, is array"));
  EXPECT_THAT(Message(OpenHeader(R"({"t":3})")), AllOf(HasSubstr("tensor t"), HasSubstr("number")));
  EXPECT_THAT(Message(OpenHeader(std::string(100000, '['))), HasSubstr("levels"));
  EXPECT_THAT(Message(OpenHeader(R"({"t":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},)"
                                 R"("t":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})")),
              AllOf(HasSubstr("\"t\""), HasSubstr("twice")));
}

TEST(SafetensorsTest, RefusesUnknownTypes) {
  EXPECT_THAT(Message(OpenHeader(R"({"t":{"dtype":"F7","shape":[4],"data_offsets":[0,16]}})")),
              AllOf(HasSubstr("x.safetensors"), HasSubstr("tensor t"), HasSubstr("\"F7\"")));
  EXPECT_THAT(Message(OpenHeader(R"({"t":{"dtype":32,"shape":[4],"data_offsets":[0,16]}})")),
              HasSubstr("unknown dtype 32"));
  EXPECT_THAT(Message(OpenHeader(R"({"t":{"shape":[4],"data_offsets":[0,16]}})")),
              HasSubstr("unknown dtype missing"));
}

TEST(SafetensorsTest, RefusesBadShapes) {
  EXPECT_THAT(Message(OpenHeader(R"({"t":{"dtype":"F32","shape":[5],"data_offsets":[0,16]}})")),
              AllOf(HasSubstr("tensor t"), HasSubstr("20"), HasSubstr("16")));
  for (const char* shape :
       {"[-4]", "[4.0]", "\"4\"", "[1,[4]]", "null", "[18446744073709551615]"}) {
    EXPECT_THAT(Message(OpenHeader(std::string(R"({"t":{"dtype":"F32","shape":)") + shape +
                                   R"(,"data_offsets":[0,16]}})")),
                AllOf(HasSubstr("tensor t"), HasSubstr("shape is"), HasSubstr(shape)));
  }
  // 2^62 * 4 * 4 and 2^32 * 2^32 * 4 come out as 0 in 64 bits.
  for (const char* shape : {"[4611686018427387904,4]", "[4294967296,4294967296]"}) {
    EXPECT_THAT(Message(OpenHeader(std::string(R"({"t":{"dtype":"F32","shape":)") + shape +
                                   R"(,"data_offsets":[0,0]}})")),
                AllOf(HasSubstr("tensor t"), HasSubstr("more than 9223372036854775807")));
  }
}

TEST(SafetensorsTest, RefusesBadOffsets) {
  for (const char* offsets :
       {"[16,0]", "[-4,12]", "[0]", "[0,8,16]", "[0.0,16]", "{}", "[18446744073709551600,0]"}) {
    EXPECT_THAT(Message(OpenHeader(std::string(R"({"t":{"dtype":"F32","shape":[4],)") +
                                   "\"data_offsets\":" + offsets + "}}")),
                AllOf(HasSubstr("tensor t"), HasSubstr("data_offsets is"), HasSubstr(offsets)));
  }
  EXPECT_THAT(Message(OpenHeader(R"({"t":{"dtype":"F32","shape":[4],"data_offsets":[4,20]}})")),
              AllOf(HasSubstr("tensor t"), HasSubstr("20"), HasSubstr("16")));
  EXPECT_THAT(Message(OpenHeader(R"({"t":{"dtype":"F32","shape":[4],)"
                                 R"("data_offsets":[9223372036854775791,9223372036854775807]}})")),
              HasSubstr("9223372036854775807"));
}

TEST(SafetensorsTest, RefusesOverlapsAndHoles) {
  EXPECT_THAT(Message(OpenHeader(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},)"
                                 R"("b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})")),
              AllOf(HasSubstr("tensor b"), HasSubstr("tensor a"), HasSubstr("byte 8"),
                    HasSubstr("byte 12"), HasSubstr("overlap")));
  EXPECT_THAT(Message(OpenHeader(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},)"
                                 R"("b":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})")),
              HasSubstr("overlap"));
  EXPECT_THAT(Message(OpenHeader(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                                 R"("b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})")),
              AllOf(HasSubstr("tensor b"), HasSubstr("byte 8"), HasSubstr("byte 4")));
}

TEST(SafetensorsTest, DamageNeverLeadsOutOfTheFile) {
  const std::string header = R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
                             R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}})";
  const std::string whole = SafetensorsBytes(header, std::string(32, 'x'));
  std::mt19937 random(3);
  TemporaryFolder folder;
  int opened = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = whole;
    for (int i = 0; i < 1 + round % 3; ++i) {
      const size_t at = random() % (8 + header.size());
      // Digits for digits keep the JSON whole and change the numbers.
      bytes[at] = std::isdigit(bytes[at]) ? '0' + random() % 10 : bytes[at] ^ (1 << random() % 8);
    }
    folder.Write("x.safetensors", bytes);
    const absl::StatusOr<SafetensorsFile> file =
        SafetensorsFile::Open(folder.File("x.safetensors"));
    if (!file.ok()) continue;
    ++opened;
    int64_t sum = 0;
    for (const std::string& name : file->Names()) {
      const absl::StatusOr<HostTensor> tensor = file->Find(name);
      if (!tensor.ok()) continue;
      const char* data = static_cast<const char*>(tensor->data);
      const int64_t size = tensor->size() * static_cast<int64_t>(SizeOf(tensor->type));
      for (int64_t i = 0; i < size; ++i) sum += data[i];
    }
    EXPECT_LE(sum, 32 * 'x');
    EXPECT_EQ(sum % 'x', 0);
  }
  EXPECT_GT(opened, 10);  // names can be damaged, and shapes with the same product
}

}  // namespace
}  // namespace tauserve
