#include "server/security/read_file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"

namespace tauserve {
namespace {

constexpr size_t kMaxBytes = 16 << 20;

absl::Status CannotRead(const std::string& path, const char* reason) {
  return absl::InvalidArgumentError(absl::StrCat(path, " cannot be read: ", reason));
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  struct Close {
    void operator()(std::FILE* f) const { std::fclose(f); }
  };
  const std::unique_ptr<std::FILE, Close> file(std::fopen(path.c_str(), "rbe"));
  if (file == nullptr) return CannotRead(path, std::strerror(errno));
  std::string text;
  char buffer[4096];
  while (const size_t n = std::fread(buffer, 1, sizeof(buffer), file.get())) {
    text.append(buffer, n);
    if (text.size() > kMaxBytes) return CannotRead(path, "it has more than 16 MiB");
  }
  if (std::ferror(file.get())) return CannotRead(path, std::strerror(errno));
  return text;
}

}  // namespace tauserve
