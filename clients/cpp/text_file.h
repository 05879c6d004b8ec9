// Whole texts of files and streams.
#ifndef TAUSERVE_CLIENTS_CPP_TEXT_FILE_H_
#define TAUSERVE_CLIENTS_CPP_TEXT_FILE_H_

#include <iosfwd>
#include <string>

#include "absl/status/statusor.h"

namespace tauserve::client {

// Up to the end, or to an error, which leaves `stream` bad.
std::string ReadAll(std::istream& stream);
// The whole file; NotFound if it can't be read.
absl::StatusOr<std::string> ReadFile(const std::string& file);

}  // namespace tauserve::client

#endif  // TAUSERVE_CLIENTS_CPP_TEXT_FILE_H_
