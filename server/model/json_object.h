// Reads a JSON file of a model folder value by value, with the allowed range beside each read. The
// first thing that is wrong is kept in status(), named by file, key, value and limit; the reads
// after it go on with values inside their ranges, so that a long list of reads needs one check at
// its end.
#ifndef TAUSERVE_SERVER_MODEL_JSON_OBJECT_H_
#define TAUSERVE_SERVER_MODEL_JSON_OBJECT_H_

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tauserve {

// The file's bytes: NotFound if it isn't there, InvalidArgument above `max_bytes`.
absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t max_bytes);

// `text` as JSON. InvalidArgument, beginning with `name`, where it is not valid JSON, is nested
// more than 64 levels deep, or has a key twice in one object.
absl::StatusOr<nlohmann::json> ParseJson(const std::string& name, const char* text, size_t size);

// An interval; without its lower end if `open_min`.
struct Interval {
  double min = 0;
  double max = 0;
  bool open_min = false;
};

class JsonObject {
 public:
  static absl::StatusOr<JsonObject> Load(const std::string& path);

  const std::string& file() const;
  const absl::Status& status() const;
  // Keeps "<file>: <message>" as the status if nothing was wrong before.
  void Fail(const std::string& message) const;
  // `key` with the names of the objects around it, "rope_scaling.factor".
  std::string FullKey(const std::string& key) const { return prefix_ + key; }

  // Whether the key is there and is not null; reads treat null as absent.
  bool Has(const std::string& key) const;
  // Whether the key is there and its value is null.
  bool IsNull(const std::string& key) const;
  // Absent values: `fallback`, or an error without one.
  int64_t Int(const std::string& key, int64_t min, int64_t max,
              std::optional<int64_t> fallback = std::nullopt) const;
  double Number(const std::string& key, Interval range,
                std::optional<double> fallback = std::nullopt) const;
  bool Bool(const std::string& key, bool fallback) const;
  std::string String(const std::string& key, const std::string& fallback) const;
  // A list, or one integer as a list of one; empty if absent.
  std::vector<int64_t> Ints(const std::string& key, int64_t min, int64_t max) const;
  // `size` numbers; the key must be there.
  std::vector<double> Numbers(const std::string& key, size_t size, Interval range) const;
  std::vector<std::string> Strings(const std::string& key) const;
  // An object inside this one, sharing its status; an empty one if absent.
  JsonObject Object(const std::string& key) const;
  // The raw value; nullptr if absent.
  const nlohmann::json* Find(const std::string& key) const;
  // A number in `range`, for values found by Find; `name` is for the message.
  double CheckedNumber(const nlohmann::json& value, const std::string& name, Interval range) const;

 private:
  struct Document;
  JsonObject(std::shared_ptr<Document> document, const nlohmann::json* object, std::string prefix);
  int64_t CheckedInt(const nlohmann::json& value, const std::string& name, int64_t min,
                     int64_t max) const;

  std::shared_ptr<Document> document_;
  const nlohmann::json* object_;  // in document_, or nullptr for an absent object
  std::string prefix_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_MODEL_JSON_OBJECT_H_
