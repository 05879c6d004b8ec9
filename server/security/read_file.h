// A small file's contents, for certificates, keys and tokens.
#ifndef TAUSERVE_SERVER_SECURITY_READ_FILE_H_
#define TAUSERVE_SERVER_SECURITY_READ_FILE_H_

#include <string>

#include "absl/status/statusor.h"

namespace tauserve {

// InvalidArgument, with the file and the system's reason, if it can't be read or has more than 16 MiB.
absl::StatusOr<std::string> ReadFile(const std::string& path);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_SECURITY_READ_FILE_H_
