#include "server/rpc/message.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/empty.pb.h>
#include <google/protobuf/unknown_field_set.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/slice.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/model/tokenizer/utf8.h"

namespace tauserve {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::UnknownField;
using google::protobuf::UnknownFieldSet;

bool ParseBytes(const grpc::ByteBuffer& bytes, google::protobuf::Message& message) {
  grpc::ByteBuffer slices(bytes);  // shares them
  grpc::ProtoBufferReader reader(&slices);
  return reader.status().ok() && message.ParseFromZeroCopyStream(&reader);
}

// Not OK for the first string among `fields` of a `type` that is not UTF-8; `path` names what they are inside of.
absl::Status CheckStrings(const UnknownFieldSet& fields, const Descriptor& type,
                          const std::string& path) {
  for (int i = 0; i < fields.field_count(); i++) {
    const UnknownField& field = fields.field(i);
    const FieldDescriptor* known = type.FindFieldByNumber(field.number());
    if (known == nullptr || field.type() != UnknownField::TYPE_LENGTH_DELIMITED) continue;
    const std::string name = path + std::string(known->name());
    if (known->type() == FieldDescriptor::TYPE_STRING) {
      const size_t offset = FindInvalidUtf8(field.length_delimited());
      if (offset == absl::string_view::npos) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          name, " is not valid UTF-8: byte ",
          static_cast<uint8_t>(field.length_delimited()[offset]), " at offset ", offset));
    }
    if (known->type() == FieldDescriptor::TYPE_MESSAGE) {
      UnknownFieldSet inside;
      if (!inside.ParseFromString(field.length_delimited())) continue;
      if (absl::Status s = CheckStrings(inside, *known->message_type(), name + "."); !s.ok()) {
        return s;
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Parse(const grpc::ByteBuffer& bytes, google::protobuf::Message& message) {
  if (!bytes.Valid()) return absl::CancelledError("the call ended before its message came");
  if (ParseBytes(bytes, message)) return absl::OkStatus();
  // A message without fields of its own parses whatever is well-formed.
  google::protobuf::Empty fields;
  if (ParseBytes(bytes, fields)) {
    const absl::Status strings = CheckStrings(fields.GetReflection()->GetUnknownFields(fields),
                                              *message.GetDescriptor(), "");
    if (!strings.ok()) return strings;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("the ", bytes.Length(), " bytes are not a ",
                   std::string(message.GetDescriptor()->full_name())));
}

grpc::ByteBuffer Serialize(const google::protobuf::Message& message) {
  std::string bytes = message.SerializeAsString();
  grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace tauserve
