#include "server/rpc/message.h"

#include <gmock/gmock.h>
#include <google/protobuf/stubs/logging.h>
#include <grpcpp/support/slice.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "tauserve/inference/v1/inference.pb.h"

namespace tauserve {
namespace {

namespace v1 = inference::v1;
using testing::HasSubstr;

grpc::ByteBuffer Bytes(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

// What gRPC hands over where a client was killed in the middle of its message.
TEST(MessageTest, NoBytesAreACallThatEnded) {
  v1::GenerateRequest request;
  EXPECT_EQ(Parse(grpc::ByteBuffer(), request).code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(Parse(Bytes(""), request).ok());
}

// The bytes of a request whose `text` is invalid UTF-8: patched in, since protobuf would not write it.
std::string BytesWith(v1::GenerateRequest request, const std::string& good,
                      const std::string& bad) {
  std::string bytes = request.SerializeAsString();
  const size_t at = bytes.find(good);
  EXPECT_NE(at, std::string::npos);
  return bytes.replace(at, good.size(), bad);
}

TEST(MessageTest, RoundTrip) {
  v1::GenerateRequest request, back;
  request.mutable_input()->set_text("grüße 🙂");
  request.mutable_input()->mutable_stopping()->add_stop_strings("x");
  ASSERT_TRUE(Parse(Serialize(request), back).ok());
  EXPECT_EQ(back.SerializeAsString(), request.SerializeAsString());
}

TEST(MessageTest, ManySlices) {
  v1::GenerateRequest request, back;
  request.mutable_input()->set_text(std::string(1000, 'a'));
  const std::string bytes = request.SerializeAsString();
  std::vector<grpc::Slice> slices;
  for (size_t i = 0; i < bytes.size(); i += 7) slices.emplace_back(bytes.substr(i, 7));
  ASSERT_TRUE(Parse(grpc::ByteBuffer(slices.data(), slices.size()), back).ok());
  EXPECT_EQ(back.input().text().size(), 1000);
}

TEST(MessageTest, NamesTheStringThatIsNotUtf8) {
  v1::GenerateRequest request, back;
  request.mutable_input()->set_text("caf??");
  absl::Status status = Parse(Bytes(BytesWith(request, "caf??", "caf\xe9!")), back);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("input.text"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("byte 233 at offset 3"));

  request.mutable_input()->set_text("fine");
  request.mutable_input()->mutable_stopping()->add_stop_strings("good");
  request.mutable_input()->mutable_stopping()->add_stop_strings("b?d");
  status = Parse(Bytes(BytesWith(request, "b?d",
                                 "b\xff"
                                 "d")),
                 back);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("input.stopping.stop_strings"));
}

TEST(MessageTest, BytesThatAreNoMessage) {
  v1::GenerateRequest back;
  const absl::Status status = Parse(Bytes("\x0a\x7f\x01"), back);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("3 bytes"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("GenerateRequest"));
}

TEST(MessageTest, AnEmptyMessageIsOne) {
  v1::GenerateRequest back;
  EXPECT_TRUE(Parse(Bytes(""), back).ok());
  EXPECT_FALSE(back.has_input());
}

TEST(MessageTest, RubbishIsRefusedOrParsedButNeverMore) {
  google::protobuf::SetLogHandler(nullptr);  // it has something to say about each
  std::mt19937 random(4);
  v1::GenerateStreamRequest request;
  request.mutable_input()->set_text("some text to begin with");
  request.mutable_input()->mutable_stopping()->add_stop_strings("stop");
  request.mutable_input()->mutable_token_ids()->add_ids(77);
  const std::string good = request.SerializeAsString();
  int refused = 0;
  for (int i = 0; i < 20000; i++) {
    std::string bytes = good;
    for (int flips = 1 + random() % 4; flips > 0; flips--) {
      bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    if (random() % 4 == 0) bytes.resize(random() % bytes.size());
    v1::GenerateStreamRequest back;
    const absl::Status status = Parse(Bytes(bytes), back);
    if (status.ok()) continue;
    refused++;
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace tauserve
