// One file of tensors in the safetensors format, mapped into memory. A file is checked whole when
// it is opened: after that, every tensor lies inside the file, overlaps no other, and has as many
// bytes as its shape and type say.
//
// Format: 8 bytes, the header's length, little-endian; the header, a JSON object {name: {"dtype",
// "shape", "data_offsets": [begin, end)}} with an optional "__metadata__" of strings; then the
// data, which the offsets count from and which the tensors fill without holes.
#ifndef TAUSERVE_SERVER_MODEL_SAFETENSORS_H_
#define TAUSERVE_SERVER_MODEL_SAFETENSORS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "kernels/tensor.h"
#include "server/model/mapped_file.h"

namespace tauserve {

// "[4096, 320]"
std::string ShapeString(const std::vector<int64_t>& shape);

class SafetensorsFile {
 public:
  // Errors name the file, the tensor where there is one, and both numbers that disagree.
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);

  const std::string& path() const { return file_->path(); }
  bool Contains(const std::string& name) const { return tensors_.contains(name); }
  // Valid as long as this object. NotFound; InvalidArgument if the type is not F32, F16 or BF16.
  absl::StatusOr<HostTensor> Find(const std::string& name) const;
  std::vector<std::string> Names() const;

 private:
  struct Entry {
    std::string dtype;  // as in the file; it may be one that weights can't have
    std::vector<int64_t> shape;
    int64_t begin = 0;  // offsets in the file
    int64_t end = 0;
  };

  SafetensorsFile() = default;
  absl::Status ReadHeader();
  absl::Status CheckLayout(int64_t data_begin) const;

  std::unique_ptr<MappedFile> file_;
  absl::flat_hash_map<std::string, Entry> tensors_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_MODEL_SAFETENSORS_H_
