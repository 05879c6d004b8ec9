#include "server/constraint/schema_checks.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <stdexcept>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace tauserve {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaxNesting = 64;
constexpr size_t kMaxShown = 100;  // bytes of a value or path in a message
constexpr int kMaxRefs = 16;       // followed one after the other
// Of oneOf: more are not compared.
constexpr size_t kMaxSchemas = 100;
constexpr size_t kMaxConstants = 100;

const std::vector<absl::string_view> kAnnotations = {
    "title",     "description", "default", "examples", "deprecated", "readOnly",
    "writeOnly", "$comment",    "$schema", "$defs",    "definitions"};

std::string Shortened(std::string text) {
  if (text.size() <= kMaxShown) return text;
  size_t end = kMaxShown;
  while (end > 0 && (text[end] & 0xc0) == 0x80) end--;  // not inside of a character
  return text.substr(0, end) + "...";
}

// Refuses what a parser lets through: deep nesting, and a name twice in one object.
class Strict {
 public:
  bool operator()(int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kMaxNesting) {
      throw std::runtime_error(absl::StrCat("nested more than ", kMaxNesting, " levels deep"));
    }
    if (event == Json::parse_event_t::object_start) {
      names_.emplace_back();
    } else if (event == Json::parse_event_t::object_end) {
      names_.pop_back();
    } else if (event == Json::parse_event_t::key) {
      const std::string& name = parsed.get_ref<const std::string&>();
      if (name.size() > kMaxPropertyNameBytes) {
        throw std::runtime_error(absl::StrCat("a name has ", name.size(), " bytes, the limit is ",
                                              kMaxPropertyNameBytes));
      }
      if (!names_.back().insert(name).second) {
        throw std::runtime_error(absl::StrCat("the name \"", Shortened(name), "\" is there twice"));
      }
    }
    return true;
  }

 private:
  std::vector<std::set<std::string>> names_;
};

const Json* Resolve(const Json& root, const Json* schema) {
  for (int i = 0; i < kMaxRefs && schema->is_object() && schema->contains("$ref"); i++) {
    absl::StatusOr<std::string> target = RefTarget(root, (*schema)["$ref"], "");
    if (!target.ok()) return schema;
    schema = &root.at(Json::json_pointer(*target));
  }
  return schema;
}

// An integer is a number.
std::string TypeOf(const Json& value) {
  if (value.is_object()) return "object";
  if (value.is_array()) return "array";
  if (value.is_string()) return "string";
  if (value.is_boolean()) return "boolean";
  return value.is_null() ? "null" : "number";
}

// Types that a value of the schema may have; nullopt: any.
std::optional<std::set<std::string>> PossibleTypes(const Json& schema) {
  if (!schema.is_object()) return std::nullopt;
  std::set<std::string> types;
  if (schema.contains("const")) return std::set<std::string>{TypeOf(schema["const"])};
  if (schema.contains("enum") && schema["enum"].is_array()) {
    for (const Json& value : schema["enum"]) types.insert(TypeOf(value));
    return types;
  }
  if (!schema.contains("type")) return std::nullopt;
  const Json list = schema["type"].is_array() ? schema["type"] : Json::array({schema["type"]});
  for (const Json& type : list) {
    types.insert(type == "integer" ? "number" : type.is_string() ? type.get<std::string>() : "");
  }
  return types;
}

// The constants of a required property.
std::vector<Json> Constants(const Json& schema, const std::string& name) {
  if (!schema.contains("required") || !schema["required"].is_array()) return {};
  const Json& required = schema["required"];
  if (std::find(required.begin(), required.end(), Json(name)) == required.end()) return {};
  const Json& property = schema["properties"][name];
  if (!property.is_object()) return {};
  if (property.contains("const")) return {property["const"]};
  if (property.contains("enum") && property["enum"].is_array()) return property["enum"];
  return {};
}

bool HaveNoCommon(const std::vector<Json>& a, const std::vector<Json>& b) {
  if (a.size() > kMaxConstants || b.size() > kMaxConstants) return false;
  return !a.empty() && !b.empty() && std::none_of(a.begin(), a.end(), [&](const Json& value) {
    return std::find(b.begin(), b.end(), value) != b.end();
  });
}

bool HaveNoCommonValue(const Json& a, const Json& b) {
  const auto a_types = PossibleTypes(a), b_types = PossibleTypes(b);
  if (a_types && b_types) {
    std::vector<std::string> both;
    std::set_intersection(a_types->begin(), a_types->end(), b_types->begin(), b_types->end(),
                          std::back_inserter(both));
    if (both.empty()) return true;
    if (both != std::vector<std::string>{"object"}) return false;
  } else {
    return false;
  }
  if (!a.contains("properties") || !a["properties"].is_object()) return false;
  if (!b.contains("properties") || !b["properties"].is_object()) return false;
  for (const auto& property : a["properties"].items()) {
    if (!b["properties"].contains(property.key())) continue;
    if (HaveNoCommon(Constants(a, property.key()), Constants(b, property.key()))) return true;
  }
  return false;
}

}  // namespace

absl::Status SchemaError(const std::string& path, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("json_schema: ", path.empty() ? "the root" : Shortened(path), ": ", what));
}

std::string ShortDump(const Json& value) { return Shortened(value.dump()); }

std::string MoreThan(const char* low, int64_t low_value, const char* high, int64_t high_value) {
  return absl::StrCat(low, " is ", low_value, ", more than ", high, " of ", high_value);
}

bool Contains(const std::vector<absl::string_view>& keys, absl::string_view key) {
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

absl::StatusOr<Json> ParseSchema(absl::string_view text) {
  try {
    Strict strict;
    return Json::parse(text.begin(), text.end(), std::ref(strict));
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat("json_schema: not valid JSON: ", Shortened(error.what())));
  }
}

absl::Status CheckKeywords(const Json& schema, const std::string& path,
                           const std::vector<std::vector<absl::string_view>>& known,
                           absl::string_view beside) {
  for (const auto& item : schema.items()) {
    const std::string& key = item.key();
    if (Contains(kAnnotations, key) || (path.empty() && key == "$id")) continue;
    if (std::any_of(known.begin(), known.end(),
                    [&](const auto& keys) { return Contains(keys, key); })) {
      continue;
    }
    return SchemaError(path, absl::StrCat("keyword '", Shortened(key), "' is not supported",
                                          beside.empty() ? "" : " beside ", beside));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> RefTarget(const Json& root, const Json& ref, const std::string& path) {
  const std::string text = ref.is_string() ? ref.get<std::string>() : "";
  if (text != "#" && !absl::StartsWith(text, "#/")) {
    return SchemaError(path, absl::StrCat("$ref ", ShortDump(ref),
                                          " is not supported; those that "
                                          "begin with #/ are"));
  }
  try {
    const std::string pointer = text.substr(1);
    const Json& target = root.at(Json::json_pointer(pointer));
    if (target.is_object() || target.is_boolean()) return pointer;
  } catch (const std::exception&) {
  }
  return SchemaError(path, absl::StrCat("$ref ", ShortDump(ref), " leads to no schema"));
}

bool HasType(const Json& schema, const Json& value) {
  if (!schema.contains("type")) return true;
  const Json list = schema["type"].is_array() ? schema["type"] : Json::array({schema["type"]});
  for (const Json& type : list) {
    if (type == "integer" ? value.is_number_integer() : type == TypeOf(value)) return true;
  }
  return false;
}

absl::StatusOr<NumberBounds> BoundsOf(const Json& schema, const std::string& path, int64_t limit) {
  NumberBounds bounds;
  bounds.range = bounds.whole = {-limit, limit};
  for (const char* key : {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"}) {
    if (!schema.contains(key)) continue;
    bounds.bounded = true;
    const Json& value = schema[key];
    const double number = value.is_number() ? value.get<double>() : NAN;
    // Above 2^53 only what is written as an integer is exact.
    const double most =
        value.is_number_integer() ? static_cast<double>(limit) : std::min<double>(limit, 0x1p53);
    if (!(std::fabs(number) <= most)) {
      return SchemaError(absl::StrCat(path, "/", key),
                         absl::StrCat("is ", ShortDump(value), ", must be a number in [", -limit,
                                      ", ", limit, "]"));
    }
    const bool exclusive = absl::StartsWith(key, "exclusive");
    const bool whole = value.is_number_integer() || std::floor(number) == number;
    bounds.are_whole &= whole;
    const int64_t down =
        value.is_number_integer() ? value.get<int64_t>() : static_cast<int64_t>(std::floor(number));
    const int64_t up = whole ? down : down + 1;
    if (absl::EndsWith(key, "inimum")) {
      bounds.range.min = std::max(bounds.range.min, up);
      bounds.whole.min = std::max(bounds.whole.min, up + (exclusive && whole));
    } else {
      bounds.range.max = std::min(bounds.range.max, down);
      bounds.whole.max = std::min(bounds.whole.max, down - (exclusive && whole));
    }
  }
  return bounds;
}

absl::StatusOr<std::set<std::string>> RequiredOf(const Json& required, const Json& properties,
                                                 const std::string& path) {
  std::set<std::string> known, names;
  for (const auto& property : properties.items()) known.insert(property.key());
  if (!required.is_array()) return SchemaError(path + "/required", "must be a list of names");
  for (const Json& name : required) {
    if (!name.is_string() || known.count(name.get<std::string>()) == 0) {
      return SchemaError(path + "/required",
                         absl::StrCat(ShortDump(name), " is not among the properties"));
    }
    names.insert(name.get<std::string>());
  }
  return names;
}

bool AreExclusive(const Json& root, const Json& schemas) {
  if (schemas.size() > kMaxSchemas) return false;
  std::vector<const Json*> resolved;
  for (const Json& schema : schemas) resolved.push_back(Resolve(root, &schema));
  for (size_t i = 0; i < resolved.size(); i++) {
    for (size_t j = 0; j < i; j++) {
      if (!HaveNoCommonValue(*resolved[i], *resolved[j])) return false;
    }
  }
  return true;
}

}  // namespace tauserve
