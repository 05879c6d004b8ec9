#include "server/model/json_object.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tauserve {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 64;
constexpr int64_t kMaxFileBytes = 16 << 20;

// A value as it stands in the file, cut where it is long.
std::string Shown(const json& value) {
  std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 60) + "...";
  return text;
}

// Stops the parser at the first thing that nlohmann-json itself would let pass.
class StrictKeys {
 public:
  bool operator()(int depth, json::parse_event_t event, const json& parsed) {
    if (depth > kMaxDepth) {
      throw std::runtime_error(absl::StrCat("nested deeper than ", kMaxDepth, " levels"));
    }
    if (event == json::parse_event_t::object_start) {
      keys_.emplace_back();
    } else if (event == json::parse_event_t::object_end) {
      keys_.pop_back();
    } else if (event == json::parse_event_t::key) {
      const std::string& key = parsed.get_ref<const std::string&>();
      if (!keys_.back().insert(key).second) {
        throw std::runtime_error(absl::StrCat("the name \"", key, "\" is there twice"));
      }
    }
    return true;
  }

 private:
  std::vector<std::set<std::string>> keys_;  // of the objects around the current place
};

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t max_bytes) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) {
    return absl::NotFoundError(absl::StrCat(path, ": ", std::strerror(errno)));
  }
  std::string bytes;
  char buffer[1 << 16];
  size_t n = 0;
  while ((n = std::fread(buffer, 1, sizeof(buffer), file)) > 0) {
    bytes.append(buffer, n);
    if (static_cast<int64_t>(bytes.size()) > max_bytes) break;
  }
  const bool failed = std::ferror(file) != 0;
  const int error = errno;
  std::fclose(file);
  if (failed) return absl::NotFoundError(absl::StrCat(path, ": ", std::strerror(error)));
  if (static_cast<int64_t>(bytes.size()) > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is larger than the limit of ", max_bytes, " bytes"));
  }
  return bytes;
}

absl::StatusOr<json> ParseJson(const std::string& name, const char* text, size_t size) {
  try {
    StrictKeys strict;
    return json::parse(text, text + size, std::ref(strict));
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": not valid JSON: ", error.what()));
  }
}

struct JsonObject::Document {
  std::string file;
  json root;
  absl::Status status;
};

JsonObject::JsonObject(std::shared_ptr<Document> document, const json* object, std::string prefix)
    : document_(std::move(document)), object_(object), prefix_(std::move(prefix)) {}

absl::StatusOr<JsonObject> JsonObject::Load(const std::string& path) {
  absl::StatusOr<std::string> text = ReadFile(path, kMaxFileBytes);
  if (!text.ok()) return text.status();
  absl::StatusOr<json> root = ParseJson(path, text->data(), text->size());
  if (!root.ok()) return root.status();
  if (!root->is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": must be a JSON object, is ", root->type_name()));
  }
  auto document = std::make_shared<Document>();
  document->file = path;
  document->root = *std::move(root);
  const json* object = &document->root;
  return JsonObject(std::move(document), object, "");
}

const std::string& JsonObject::file() const { return document_->file; }

const absl::Status& JsonObject::status() const { return document_->status; }

void JsonObject::Fail(const std::string& message) const {
  if (!document_->status.ok()) return;
  document_->status = absl::InvalidArgumentError(absl::StrCat(document_->file, ": ", message));
}

const json* JsonObject::Find(const std::string& key) const {
  if (object_ == nullptr) return nullptr;
  const auto it = object_->find(key);
  return it == object_->end() || it->is_null() ? nullptr : &*it;
}

bool JsonObject::Has(const std::string& key) const { return Find(key) != nullptr; }

bool JsonObject::IsNull(const std::string& key) const {
  if (object_ == nullptr) return false;
  const auto it = object_->find(key);
  return it != object_->end() && it->is_null();
}

int64_t JsonObject::CheckedInt(const json& value, const std::string& name, int64_t min,
                               int64_t max) const {
  const std::string limit = absl::StrCat("must be an integer in [", min, ", ", max, "]");
  if (!value.is_number_integer()) {
    Fail(absl::StrCat(name, " is ", Shown(value), ", ", limit));
    return min;
  }
  const bool too_large = value.is_number_unsigned() && value.get<uint64_t>() > uint64_t(INT64_MAX);
  if (too_large || value.get<int64_t>() < min || value.get<int64_t>() > max) {
    Fail(absl::StrCat(name, " is ", Shown(value), ", ", limit));
    return min;
  }
  return value.get<int64_t>();
}

double JsonObject::CheckedNumber(const json& value, const std::string& name, Interval range) const {
  const double number = value.is_number() ? value.get<double>() : NAN;
  const bool above = range.open_min ? number > range.min : number >= range.min;
  if (above && number <= range.max) return number;  // NaN fails both
  Fail(absl::StrCat(name, " is ", Shown(value), ", must be a number in ",
                    range.open_min ? "(" : "[", range.min, ", ", range.max, "]"));
  return range.max;
}

int64_t JsonObject::Int(const std::string& key, int64_t min, int64_t max,
                        std::optional<int64_t> fallback) const {
  if (const json* value = Find(key)) return CheckedInt(*value, FullKey(key), min, max);
  if (!fallback) Fail(absl::StrCat(FullKey(key), " is missing"));
  return fallback.value_or(min);
}

double JsonObject::Number(const std::string& key, Interval range,
                          std::optional<double> fallback) const {
  if (const json* value = Find(key)) return CheckedNumber(*value, FullKey(key), range);
  if (!fallback) Fail(absl::StrCat(FullKey(key), " is missing"));
  return fallback.value_or(range.max);
}

bool JsonObject::Bool(const std::string& key, bool fallback) const {
  const json* value = Find(key);
  if (value == nullptr) return fallback;
  if (value->is_boolean()) return value->get<bool>();
  Fail(absl::StrCat(FullKey(key), " is ", Shown(*value), ", must be true or false"));
  return fallback;
}

std::string JsonObject::String(const std::string& key, const std::string& fallback) const {
  const json* value = Find(key);
  if (value == nullptr) return fallback;
  if (value->is_string()) return value->get<std::string>();
  Fail(absl::StrCat(FullKey(key), " is ", Shown(*value), ", must be a string"));
  return fallback;
}

std::vector<int64_t> JsonObject::Ints(const std::string& key, int64_t min, int64_t max) const {
  std::vector<int64_t> ints;
  const json* value = Find(key);
  if (value == nullptr) return ints;
  if (!value->is_array()) return {CheckedInt(*value, FullKey(key), min, max)};
  for (const json& element : *value) {
    ints.push_back(
        CheckedInt(element, absl::StrCat(FullKey(key), "[", ints.size(), "]"), min, max));
  }
  return ints;
}

std::vector<double> JsonObject::Numbers(const std::string& key, size_t size, Interval range) const {
  std::vector<double> numbers(size, range.max);
  const json* value = Find(key);
  if (value == nullptr || !value->is_array() || value->size() != size) {
    Fail(absl::StrCat(FullKey(key), " is ", value == nullptr ? "missing" : Shown(*value),
                      ", must be a list of ", size, " numbers"));
    return numbers;
  }
  for (size_t i = 0; i < size; ++i) {
    numbers[i] = CheckedNumber((*value)[i], absl::StrCat(FullKey(key), "[", i, "]"), range);
  }
  return numbers;
}

std::vector<std::string> JsonObject::Strings(const std::string& key) const {
  std::vector<std::string> strings;
  const json* value = Find(key);
  if (value == nullptr) return strings;
  const bool all_strings =
      value->is_array() &&
      std::all_of(value->begin(), value->end(), [](const json& e) { return e.is_string(); });
  if (!all_strings) {
    Fail(absl::StrCat(FullKey(key), " is ", Shown(*value), ", must be a list of strings"));
    return strings;
  }
  for (const json& element : *value) strings.push_back(element.get<std::string>());
  return strings;
}

JsonObject JsonObject::Object(const std::string& key) const {
  const json* value = Find(key);
  if (value != nullptr && !value->is_object()) {
    Fail(absl::StrCat(FullKey(key), " is ", Shown(*value), ", must be an object"));
    value = nullptr;
  }
  return JsonObject(document_, value, FullKey(key) + ".");
}

}  // namespace tauserve
