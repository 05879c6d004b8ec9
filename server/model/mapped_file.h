// A file mapped read-only into memory, so that weights are paged in as they are read and never
// copied whole.
#ifndef TAUSERVE_SERVER_MODEL_MAPPED_FILE_H_
#define TAUSERVE_SERVER_MODEL_MAPPED_FILE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace tauserve {

class MappedFile {
 public:
  // NotFound if the file can't be opened, InvalidArgument if it is empty or not a regular file.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const char* data() const { return data_; }
  int64_t size() const { return size_; }
  const std::string& path() const { return path_; }

 private:
  MappedFile(std::string path, const char* data, int64_t size);

  std::string path_;
  const char* data_;
  int64_t size_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_MODEL_MAPPED_FILE_H_
