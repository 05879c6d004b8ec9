// The weights of a model folder: `model.safetensors`, or the shards that
// `model.safetensors.index.json` lists.
#ifndef TAUSERVE_SERVER_MODEL_CHECKPOINT_H_
#define TAUSERVE_SERVER_MODEL_CHECKPOINT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "kernels/tensor.h"
#include "server/model/safetensors.h"

namespace tauserve {

class Checkpoint {
 public:
  // NotFound if there are no weights, or a shard is not there; InvalidArgument for malformed files.
  static absl::StatusOr<Checkpoint> Open(const std::string& folder);

  // The tensor, mapped: valid as long as this object. Errors name the file, the tensor, and the
  // expected and the found shape.
  absl::StatusOr<HostTensor> Find(const std::string& name, const std::vector<int64_t>& shape) const;
  bool Contains(const std::string& name) const { return file_of_.contains(name); }

 private:
  Checkpoint() = default;
  absl::Status AddShard(const std::string& path);

  std::string source_;  // the file that lists the tensors, for messages
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  absl::flat_hash_map<std::string, const SafetensorsFile*> file_of_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_MODEL_CHECKPOINT_H_
