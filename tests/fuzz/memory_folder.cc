#include "tests/fuzz/memory_folder.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "kernels/check.h"

namespace tauserve {

MemoryFolder::MemoryFolder() {
  char path[] = "/dev/shm/tauserve-fuzz-XXXXXX";
  TAUSERVE_CHECK(mkdtemp(path) != nullptr, "a folder in /dev/shm");
  path_ = path;
}

MemoryFolder::~MemoryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string MemoryFolder::Write(const std::string& name, absl::string_view content) const {
  const std::string file = path_ + "/" + name;
  std::ofstream stream(file, std::ios::binary | std::ios::trunc);
  stream.write(content.data(), static_cast<std::streamsize>(content.size()));
  stream.close();
  TAUSERVE_CHECK(stream.good(), "a file in /dev/shm");
  return file;
}

}  // namespace tauserve
