#include "server/model/checkpoint.h"

#include <unistd.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/model/json_object.h"

namespace tauserve {
namespace {

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";
constexpr int64_t kMaxIndexBytes = 100'000'000;

bool Exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

// {tensor: shard} of an index file.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& path) {
  absl::StatusOr<std::string> text = ReadFile(path, kMaxIndexBytes);
  if (!text.ok()) return text.status();
  absl::StatusOr<nlohmann::json> index = ParseJson(path, text->data(), text->size());
  if (!index.ok()) return index.status();
  if (!index->is_object() || !index->contains("weight_map") ||
      !(*index)["weight_map"].is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": weight_map must be an object of tensor names and file names"));
  }
  std::map<std::string, std::string> shard_of;
  for (const auto& [name, shard] : (*index)["weight_map"].items()) {
    // A shard lies in the model's own folder; an index can't point anywhere else.
    const std::string file = shard.is_string() ? shard.get<std::string>() : "";
    if (file.empty() || file.find('/') != std::string::npos || file[0] == '.') {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": tensor ", name, ": \"", file, "\" is not the name of a file in this folder"));
    }
    shard_of[name] = file;
  }
  return shard_of;
}

}  // namespace

absl::Status Checkpoint::AddShard(const std::string& path) {
  absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(path);
  if (!file.ok()) return file.status();
  files_.push_back(std::make_unique<SafetensorsFile>(*std::move(file)));
  return absl::OkStatus();
}

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& folder) {
  Checkpoint checkpoint;
  const std::string single = absl::StrCat(folder, "/", kSingleFile);
  const std::string index = absl::StrCat(folder, "/", kIndexFile);
  if (Exists(single)) {
    if (absl::Status status = checkpoint.AddShard(single); !status.ok()) return status;
    checkpoint.source_ = single;
    const SafetensorsFile* file = checkpoint.files_[0].get();
    for (const std::string& name : file->Names()) checkpoint.file_of_[name] = file;
    return checkpoint;
  }
  if (!Exists(index)) {
    return absl::NotFoundError(
        absl::StrCat(folder, ": has neither ", kSingleFile, " nor ", kIndexFile));
  }
  checkpoint.source_ = index;
  absl::StatusOr<std::map<std::string, std::string>> shard_of = ReadIndex(index);
  if (!shard_of.ok()) return shard_of.status();
  std::map<std::string, const SafetensorsFile*> opened;
  for (const auto& [name, shard] : *shard_of) {
    if (!opened.contains(shard)) {
      absl::Status status = checkpoint.AddShard(absl::StrCat(folder, "/", shard));
      if (!status.ok()) return status;
      opened[shard] = checkpoint.files_.back().get();
    }
    if (!opened[shard]->Contains(name)) {
      return absl::InvalidArgumentError(absl::StrCat(opened[shard]->path(), ": tensor ", name,
                                                     " is missing, though ", index,
                                                     " says that it is there"));
    }
    checkpoint.file_of_[name] = opened[shard];
  }
  return checkpoint;
}

absl::StatusOr<HostTensor> Checkpoint::Find(const std::string& name,
                                            const std::vector<int64_t>& shape) const {
  const auto it = file_of_.find(name);
  if (it == file_of_.end()) {
    return absl::InvalidArgumentError(absl::StrCat(
        source_, ": tensor ", name, " is missing, expected with shape ", ShapeString(shape)));
  }
  absl::StatusOr<HostTensor> tensor = it->second->Find(name);
  if (tensor.ok() && tensor->shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat(it->second->path(), ": tensor ", name,
                                                   " has shape ", ShapeString(tensor->shape),
                                                   ", config.json expects ", ShapeString(shape)));
  }
  return tensor;
}

}  // namespace tauserve
