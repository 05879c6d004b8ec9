#include "clients/cpp/text_file.h"

#include <fstream>
#include <istream>
#include <vector>

#include "absl/strings/str_cat.h"

namespace tauserve::client {

std::string ReadAll(std::istream& stream) {
  std::string text;
  std::vector<char> buffer(1 << 16);
  do {
    stream.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    text.append(buffer.data(), static_cast<size_t>(stream.gcount()));
  } while (stream.good());
  return text;
}

absl::StatusOr<std::string> ReadFile(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  std::string text = ReadAll(stream);
  if (!stream.is_open() || stream.bad()) {
    return absl::NotFoundError(absl::StrCat(file, ": cannot be read"));
  }
  return text;
}

}  // namespace tauserve::client
