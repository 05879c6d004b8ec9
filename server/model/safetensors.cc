#include "server/model/safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/model/json_object.h"

namespace tauserve {
namespace {

using nlohmann::json;

// The format's own limit, which keeps a damaged length from being believed.
constexpr int64_t kMaxHeaderBytes = 100'000'000;

// Bytes of one element; 0 for a type that the format does not have.
int64_t ElementBytes(const std::string& dtype) {
  static constexpr struct {
    const char* name;
    int64_t bytes;
  } kTypes[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1},
                {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
                {"U32", 4},  {"F32", 4}, {"F64", 8}, {"I64", 8},     {"U64", 8}};
  for (const auto& type : kTypes) {
    if (dtype == type.name) return type.bytes;
  }
  return 0;
}

// A list of non-negative integers; false if it isn't one.
bool ReadSizes(const json& tensor, const char* key, std::vector<int64_t>* sizes) {
  const auto it = tensor.find(key);
  if (it == tensor.end() || !it->is_array()) return false;
  for (const json& element : *it) {
    if (!element.is_number_integer()) return false;
    // Unsigned numbers above the largest int64_t come out negative too.
    if (element.get<int64_t>() < 0) return false;
    sizes->push_back(element.get<int64_t>());
  }
  return true;
}

std::string Shown(const json& tensor, const char* key) {
  const auto it = tensor.find(key);
  if (it == tensor.end()) return "missing";
  std::string text = it->dump(-1, ' ', false, json::error_handler_t::replace);
  return text.size() > 60 ? text.substr(0, 60) + "..." : text;
}

}  // namespace

std::string ShapeString(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  absl::StatusOr<std::unique_ptr<MappedFile>> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  SafetensorsFile result;
  result.file_ = *std::move(file);
  if (absl::Status status = result.ReadHeader(); !status.ok()) return status;
  return result;
}

absl::Status SafetensorsFile::ReadHeader() {
  const auto error = [this](const auto&... what) {
    return absl::InvalidArgumentError(absl::StrCat(path(), ": ", what...));
  };
  if (file_->size() < 8) {
    return error("is truncated: ", file_->size(), " bytes, the header's length alone takes 8");
  }
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file_->data(), 8);
  if (header_bytes > uint64_t(kMaxHeaderBytes)) {
    return error("header of ", header_bytes, " bytes, the limit is ", kMaxHeaderBytes);
  }
  if (header_bytes > uint64_t(file_->size() - 8)) {
    return error("is truncated: the header ends at byte ", header_bytes + 8, ", the file at byte ",
                 file_->size());
  }
  absl::StatusOr<json> header = ParseJson(path() + ": header", file_->data() + 8, header_bytes);
  if (!header.ok()) return header.status();
  if (!header->is_object()) return error("header must be a JSON object, is ", header->type_name());

  const int64_t data_begin = 8 + int64_t(header_bytes);
  const int64_t data_bytes = file_->size() - data_begin;
  for (const auto& [name, tensor] : header->items()) {
    if (name == "__metadata__") continue;
    const std::string where = absl::StrCat("tensor ", name, ": ");
    if (!tensor.is_object()) return error(where, "must be a JSON object, is ", tensor.type_name());
    const auto dtype = tensor.find("dtype");
    if (dtype == tensor.end() || !dtype->is_string() ||
        ElementBytes(dtype->get<std::string>()) == 0) {
      return error(where, "unknown dtype ", Shown(tensor, "dtype"));
    }
    Entry entry;
    entry.dtype = dtype->get<std::string>();
    if (!ReadSizes(tensor, "shape", &entry.shape)) {
      return error(where, "shape is ", Shown(tensor, "shape"),
                   ", must be a list of integers in [0, ", INT64_MAX, "]");
    }
    std::vector<int64_t> offsets;
    if (!ReadSizes(tensor, "data_offsets", &offsets) || offsets.size() != 2 ||
        offsets[0] > offsets[1]) {
      return error(where, "data_offsets is ", Shown(tensor, "data_offsets"),
                   ", must be [begin, end] with 0 <= begin <= end");
    }
    if (offsets[1] > data_bytes) {
      return error(where, "data_offsets end at byte ", offsets[1], " of the data, the file has ",
                   data_bytes, " (truncated, or a wrong offset)");
    }
    int64_t bytes = ElementBytes(entry.dtype);
    for (const int64_t dim : entry.shape) {
      if (__builtin_mul_overflow(bytes, dim, &bytes)) {
        return error(where, "shape ", ShapeString(entry.shape), " of ", entry.dtype,
                     " takes more than ", INT64_MAX, " bytes");
      }
    }
    if (bytes != offsets[1] - offsets[0]) {
      return error(where, "shape ", ShapeString(entry.shape), " of ", entry.dtype, " takes ", bytes,
                   " bytes, data_offsets span ", offsets[1] - offsets[0]);
    }
    entry.begin = data_begin + offsets[0];
    entry.end = data_begin + offsets[1];
    tensors_.emplace(name, std::move(entry));
  }
  return CheckLayout(data_begin);
}

absl::Status SafetensorsFile::CheckLayout(int64_t data_begin) const {
  std::vector<std::pair<const std::string*, const Entry*>> order;
  for (const auto& [name, entry] : tensors_) {
    if (entry.begin < entry.end) order.emplace_back(&name, &entry);
  }
  std::sort(order.begin(), order.end(),
            [](const auto& a, const auto& b) { return a.second->begin < b.second->begin; });
  int64_t covered = data_begin;
  const std::string* before = nullptr;
  for (const auto& [name, entry] : order) {
    if (entry->begin < covered) {
      return absl::InvalidArgumentError(
          absl::StrCat(path(), ": tensor ", *name, ": begins at byte ", entry->begin - data_begin,
                       " of the data, tensor ", *before, " ends at byte ", covered - data_begin,
                       ": they overlap"));
    }
    if (entry->begin > covered) {
      return absl::InvalidArgumentError(
          absl::StrCat(path(), ": tensor ", *name, ": begins at byte ", entry->begin - data_begin,
                       " of the data, what is before it ends at byte ", covered - data_begin));
    }
    covered = entry->end;
    before = name;
  }
  if (covered != file_->size()) {
    return absl::InvalidArgumentError(absl::StrCat(path(), ": the tensors end at byte ", covered,
                                                   ", the file at byte ", file_->size()));
  }
  return absl::OkStatus();
}

absl::StatusOr<HostTensor> SafetensorsFile::Find(const std::string& name) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) {
    return absl::NotFoundError(absl::StrCat(path(), ": tensor ", name, " is missing"));
  }
  const Entry& entry = it->second;
  HostTensor tensor;
  if (entry.dtype == "F32") {
    tensor.type = DataType::kFloat32;
  } else if (entry.dtype == "F16") {
    tensor.type = DataType::kFloat16;
  } else if (entry.dtype == "BF16") {
    tensor.type = DataType::kBFloat16;
  } else {
    return absl::InvalidArgumentError(absl::StrCat(
        path(), ": tensor ", name, ": dtype ", entry.dtype, ", weights must be F32, F16 or BF16"));
  }
  tensor.data = file_->data() + entry.begin;
  tensor.shape = entry.shape;
  return tensor;
}

std::vector<std::string> SafetensorsFile::Names() const {
  std::vector<std::string> names;
  names.reserve(tensors_.size());
  for (const auto& [name, entry] : tensors_) names.push_back(name);
  return names;
}

}  // namespace tauserve
