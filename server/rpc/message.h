// Messages and their bytes. The services take raw bytes and parse them here, because gRPC ends a call whose message it
// can't parse with an empty UNIMPLEMENTED, before the service has seen it: here the client is told what is wrong, and the
// call is counted like every other.
#ifndef TAUSERVE_SERVER_RPC_MESSAGE_H_
#define TAUSERVE_SERVER_RPC_MESSAGE_H_

#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>

#include "absl/status/status.h"

namespace tauserve {

// Cancelled where there are no bytes: the client was gone before its message had come whole.
// InvalidArgument with the field and the offset for a string that is not UTF-8, and for bytes that are no such message.
absl::Status Parse(const grpc::ByteBuffer& bytes, google::protobuf::Message& message);

grpc::ByteBuffer Serialize(const google::protobuf::Message& message);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_RPC_MESSAGE_H_
