// A folder in memory whose files a fuzz target writes anew for each input: what is tested reads files by name.
#ifndef TAUSERVE_TESTS_FUZZ_MEMORY_FOLDER_H_
#define TAUSERVE_TESTS_FUZZ_MEMORY_FOLDER_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace tauserve {

class MemoryFolder {
 public:
  MemoryFolder();
  ~MemoryFolder();  // removes it
  MemoryFolder(const MemoryFolder&) = delete;
  MemoryFolder& operator=(const MemoryFolder&) = delete;

  const std::string& path() const { return path_; }
  // The file's path. The content replaces what the file held.
  std::string Write(const std::string& name, absl::string_view content) const;

 private:
  std::string path_;
};

inline absl::string_view AsText(const uint8_t* data, size_t size) {
  return absl::string_view(reinterpret_cast<const char*>(data), size);
}

}  // namespace tauserve

#endif  // TAUSERVE_TESTS_FUZZ_MEMORY_FOLDER_H_
