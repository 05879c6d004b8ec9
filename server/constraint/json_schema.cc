#include "server/constraint/json_schema.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "nlohmann/json.hpp"
#include "server/constraint/json_text.h"
#include "server/constraint/regex.h"
#include "server/constraint/schema_checks.h"

namespace tauserve {
namespace {

using Json = nlohmann::ordered_json;
using Keys = std::vector<absl::string_view>;

const Keys kTypeNames = {"null", "boolean", "integer", "number", "string", "array", "object"};
const Keys kStringKeys = {"minLength", "maxLength", "pattern", "format"};
const Keys kNumberKeys = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"};
const Keys kArrayKeys = {"items", "prefixItems", "minItems", "maxItems", "uniqueItems"};
const Keys kObjectKeys = {"properties", "required", "additionalProperties"};

constexpr char kTime[] =
    "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?"
    "(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";
// Every month has 28 days, most have more: February's 29th is left out.
constexpr char kDate[] =
    "[1-9][0-9]{3}-((0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])"
    "|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)";
constexpr char kByte[] = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";

std::string FormatPattern(const std::string& format) {
  if (format == "date") return kDate;
  if (format == "time") return kTime;
  if (format == "date-time") return absl::StrCat("(", kDate, ")T", kTime);
  if (format == "ipv4") return absl::StrCat(kByte, "(\\.", kByte, "){3}");
  if (format == "uuid") return "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}";
  return "";
}

// The first error is kept; what is built after it does not count.
class SchemaCompiler {
 public:
  explicit SchemaCompiler(const Json& root) : root_(root), text_(&builder_) {}

  absl::StatusOr<Nfa> Compile() {
    const StateId start = Value(root_, "", Nfa::kReturnState);
    while (!waiting_.empty() && status_.ok() && builder_.Fits()) {
      const auto [pointer, rule] = waiting_.back();
      waiting_.pop_back();
      builder_.Set(rule,
                   {Value(root_.at(Json::json_pointer(pointer)), pointer, Nfa::kReturnState)});
    }
    if (!status_.ok()) return status_;
    absl::StatusOr<Nfa> nfa = builder_.Finish(start);
    if (nfa.ok()) return nfa;
    return absl::InvalidArgumentError(absl::StrCat("json_schema ", nfa.status().message()));
  }

 private:
  StateId Wrong(const std::string& path, const std::string& what) {
    if (status_.ok()) status_ = SchemaError(path, what);
    return Nfa::kReturnState;
  }

  // What follows a pointer to a schema inside of `schema`.
  static std::string Below(const std::string& path, absl::string_view key) {
    return absl::StrCat(path, "/", absl::StrReplaceAll(key, {{"~", "~0"}, {"/", "~1"}}));
  }

  // Every key is an annotation or in one of `known`.
  bool OnlyKnown(const Json& schema, const std::string& path, const std::vector<Keys>& known,
                 absl::string_view beside) {
    if (absl::Status s = CheckKeywords(schema, path, known, beside); !s.ok()) {
      if (status_.ok()) status_ = s;
      return false;
    }
    return true;
  }

  StateId Value(const Json& schema, const std::string& path, StateId next) {
    if (!status_.ok() || !builder_.Fits()) return next;
    if (schema.is_boolean()) {
      return schema.get<bool>() ? text_.AnyValue(next) : Wrong(path, "false allows no value");
    }
    if (!schema.is_object()) return Wrong(path, "a schema must be an object or a boolean");
    if (schema.contains("$ref")) {
      if (!OnlyKnown(schema, path, {{"$ref"}}, "$ref")) return next;
      absl::StatusOr<std::string> target = RefTarget(root_, schema["$ref"], path);
      if (!target.ok()) return status_ = target.status(), next;
      return builder_.Call(RuleOf(*target), next);
    }
    for (const char* key : {"const", "enum"}) {
      if (schema.contains(key)) return Fixed(schema, path, key, next);
    }
    for (const char* key : {"anyOf", "oneOf", "allOf"}) {
      if (schema.contains(key)) return Combined(schema, path, key, next);
    }
    return Typed(schema, path, next);
  }

  StateId RuleOf(const std::string& pointer) {
    const auto [it, fresh] = rules_.try_emplace(pointer, 0);
    if (fresh) {
      it->second = builder_.Later();
      waiting_.emplace_back(pointer, it->second);
    }
    return it->second;
  }

  StateId Fixed(const Json& schema, const std::string& path, const char* key, StateId next) {
    if (!OnlyKnown(schema, path, {{key, "type"}}, key)) return next;
    Json values = schema[key];
    if (std::string(key) == "const") values = Json::array({values});
    if (!values.is_array() || values.empty()) {
      return Wrong(Below(path, key), "must be a list of at least one value");
    }
    std::vector<StateId> ways;
    for (const Json& value : values) {
      if (!builder_.Fits()) return next;
      if (HasType(schema, value)) ways.push_back(Literal(value, next));
    }
    if (ways.empty()) return Wrong(Below(path, key), "has no value of the schema's type");
    return builder_.Split(std::move(ways));
  }

  StateId Literal(const Json& value, StateId next) {
    if (!builder_.Fits()) return next;
    if (value.is_string()) return text_.Literal(value.get<std::string>(), next);
    if (!value.is_structured()) return builder_.Text(value.dump(), next);
    StateId state = text_.WhiteSpace(builder_.Byte(value.is_array() ? ']' : '}', next));
    std::vector<std::pair<std::string, const Json*>> members;
    for (const auto& item : value.items()) members.emplace_back(item.key(), &item.value());
    for (size_t i = members.size(); i-- > 0 && builder_.Fits();) {
      state = Literal(*members[i].second, state);
      if (value.is_object()) state = Key(members[i].first, state);
      state = text_.WhiteSpace(state);
      if (i > 0) state = builder_.Byte(',', state);
    }
    return builder_.Byte(value.is_array() ? '[' : '{', state);
  }

  StateId Key(const std::string& name, StateId value) {
    return text_.Literal(name, builder_.Byte(':', text_.WhiteSpace(value)));
  }

  StateId Combined(const Json& schema, const std::string& path, const char* key, StateId next) {
    if (!OnlyKnown(schema, path, {{key}}, key)) return next;
    const Json& parts = schema[key];
    const std::string below = Below(path, key);
    if (!parts.is_array() || parts.empty()) {
      return Wrong(below, "must be a list of at least one schema");
    }
    if (std::string(key) == "allOf" && parts.size() > 1) {
      return Wrong(below,
                   absl::StrCat("is supported with one schema only, not with ", parts.size()));
    }
    if (std::string(key) == "oneOf" && !AreExclusive(root_, parts)) {
      return Wrong(below,
                   "is supported only where its schemas are told apart by their types, or by a "
                   "required property with other constants in each; anyOf has no such limit");
    }
    std::vector<StateId> ways;
    for (size_t i = 0; i < parts.size(); i++) {
      ways.push_back(Value(parts[i], Below(below, absl::StrCat(i)), next));
    }
    return builder_.Split(std::move(ways));
  }

  StateId Typed(const Json& schema, const std::string& path, StateId next) {
    if (!OnlyKnown(schema, path, {{"type"}, kStringKeys, kNumberKeys, kArrayKeys, kObjectKeys},
                   "")) {
      return next;
    }
    absl::StatusOr<std::vector<std::string>> types = TypesOf(schema, path);
    if (!types.ok()) return status_ = types.status(), next;
    if (types->empty()) return text_.AnyValue(next);
    std::vector<StateId> ways;
    for (const std::string& type : *types) {
      if (type == "null") ways.push_back(builder_.Text("null", next));
      if (type == "boolean") {
        ways.push_back(builder_.Text("true", next));
        ways.push_back(builder_.Text("false", next));
      }
      if (type == "integer") ways.push_back(Integer(schema, path, next));
      if (type == "number") ways.push_back(Number(schema, path, next));
      if (type == "string") ways.push_back(String(schema, path, next));
      if (type == "array") ways.push_back(Array(schema, path, next));
      if (type == "object") ways.push_back(Object(schema, path, next));
    }
    return builder_.Split(std::move(ways));
  }

  // The types that are named; else those that the keywords are for; none: any.
  absl::StatusOr<std::vector<std::string>> TypesOf(const Json& schema, const std::string& path) {
    std::vector<std::string> types;
    if (schema.contains("type")) {
      const Json list = schema["type"].is_array() ? schema["type"] : Json::array({schema["type"]});
      for (const Json& type : list) {
        if (!type.is_string() || !Contains(kTypeNames, type.get<std::string>())) {
          return SchemaError(Below(path, "type"), absl::StrCat(ShortDump(type), " is no type"));
        }
        types.push_back(type.get<std::string>());
      }
      if (types.empty()) return SchemaError(Below(path, "type"), "must have at least one type");
      return types;
    }
    const std::pair<const char*, const Keys*> by_keys[] = {{"string", &kStringKeys},
                                                           {"number", &kNumberKeys},
                                                           {"array", &kArrayKeys},
                                                           {"object", &kObjectKeys}};
    for (const auto& [type, keys] : by_keys) {
      for (absl::string_view key : *keys) {
        if (!schema.contains(std::string(key))) continue;
        types.push_back(type);
        break;
      }
    }
    return types;
  }

  // A count such as minItems; `absent` where it is not there.
  int64_t Count(const Json& schema, const std::string& path, const char* key, int64_t absent) {
    if (!schema.contains(key)) return absent;
    const Json& value = schema[key];
    if (value.is_number_unsigned() && value.get<uint64_t>() <= kMaxCount) {
      return value.get<int64_t>();
    }
    Wrong(Below(path, key), absl::StrCat("is ", ShortDump(value),
                                         ", must be a whole number in [0, ", kMaxCount, "]"));
    return absent;
  }

  StateId String(const Json& schema, const std::string& path, StateId next) {
    const bool sized = schema.contains("minLength") || schema.contains("maxLength");
    if (sized + schema.contains("pattern") + schema.contains("format") > 1) {
      return Wrong(path, "only one of pattern, format and lengths is supported for a string");
    }
    if (schema.contains("format")) {
      const Json& format = schema["format"];
      const std::string pattern =
          format.is_string() ? FormatPattern(format.get<std::string>()) : "";
      if (pattern.empty()) {
        return Wrong(Below(path, "format"),
                     absl::StrCat(ShortDump(format),
                                  " is not supported; date, time, date-time, "
                                  "ipv4 and uuid are"));
      }
      return text_.StringWith(*Regex::Parse(absl::StrCat("^(", pattern, ")$")), next);
    }
    if (schema.contains("pattern")) {
      const Json& pattern = schema["pattern"];
      if (!pattern.is_string()) return Wrong(Below(path, "pattern"), "must be a string");
      const absl::StatusOr<Regex> regex = Regex::Parse(pattern.get<std::string>());
      if (!regex.ok()) return Wrong(Below(path, "pattern"), std::string(regex.status().message()));
      return text_.StringWith(*regex, next);
    }
    const int64_t min = Count(schema, path, "minLength", 0);
    const int64_t max = Count(schema, path, "maxLength", -1);
    if (max >= 0 && max < min) return Wrong(path, MoreThan("minLength", min, "maxLength", max));
    return text_.StringOfLength(min, max, next);
  }

  StateId Integer(const Json& schema, const std::string& path, StateId next) {
    absl::StatusOr<NumberBounds> bounds = BoundsOf(schema, path, kMaxInteger);
    if (!bounds.ok()) return status_ = bounds.status(), next;
    if (!bounds->bounded) return text_.Integer(next);
    if (bounds->whole.min > bounds->whole.max) return Wrong(path, "no integer is in its bounds");
    return text_.Integer(bounds->whole, next);
  }

  StateId Number(const Json& schema, const std::string& path, StateId next) {
    absl::StatusOr<NumberBounds> bounds = BoundsOf(schema, path, kMaxBound);
    if (!bounds.ok()) return status_ = bounds.status(), next;
    if (!bounds->bounded) return text_.Number(next);
    if (!bounds->are_whole) {
      return Wrong(path, "bounds of a number are supported only where they are whole");
    }
    if (bounds->range.min > bounds->range.max ||
        (bounds->range.min == bounds->range.max && bounds->whole.min > bounds->whole.max)) {
      return Wrong(path, "no number is in its bounds");
    }
    return text_.Number(bounds->range, bounds->whole, next);
  }

  StateId Array(const Json& schema, const std::string& path, StateId next) {
    if (schema.contains("uniqueItems") && schema["uniqueItems"] != false) {
      return Wrong(Below(path, "uniqueItems"), "is not supported, but for false");
    }
    const int64_t min = Count(schema, path, "minItems", 0);
    int64_t max = Count(schema, path, "maxItems", -1);
    if (max >= 0 && max < min) return Wrong(path, MoreThan("minItems", min, "maxItems", max));
    static const Json kAnything = true, kNone = Json::array();
    const Json& prefix = schema.contains("prefixItems") ? schema["prefixItems"] : kNone;
    const Json& items = schema.contains("items") ? schema["items"] : kAnything;
    if (!prefix.is_array()) return Wrong(Below(path, "prefixItems"), "must be a list of schemas");
    const auto first = static_cast<int64_t>(prefix.size());
    if (items == false && (max < 0 || max > first)) max = first;
    if (max >= 0 && max < min) {
      return Wrong(path, MoreThan("minItems", min, "the number of items allowed", max));
    }
    if (first == 0 && min == 0 && max < 0 && items == true) return text_.AnyArray(next);
    const auto item = [&](int64_t i, StateId to) {
      if (i < first) {
        return Value(prefix[i], Below(Below(path, "prefixItems"), absl::StrCat(i)), to);
      }
      // Once for all that are alike.
      return items == true ? text_.AnyValue(to) : builder_.Call(RuleOf(Below(path, "items")), to);
    };
    const StateId end = text_.WhiteSpace(builder_.Byte(']', next));
    // Behind the last item that is unlike the next.
    const int64_t last = max >= 0 ? max : std::max({min, first, int64_t{1}});
    StateId state = end;
    if (max < 0) {
      state = builder_.Later();
      builder_.Set(state, {builder_.Byte(',', text_.WhiteSpace(item(last, state))), end});
    }
    for (int64_t i = last - 1; i >= 0 && builder_.Fits(); i--) {
      state = text_.WhiteSpace(item(i, state));
      if (i > 0) state = builder_.Byte(',', state);
      if (i >= min) state = builder_.Split({state, end});
    }
    return builder_.Byte('[', state);
  }

  StateId Object(const Json& schema, const std::string& path, StateId next) {
    static const Json kNoProperties = Json::object(), kNone = Json::array(), kFalse = false,
                      kTrue = true;
    const bool named = schema.contains("properties");
    const Json& properties = named ? schema["properties"] : kNoProperties;
    const Json& required = schema.contains("required") ? schema["required"] : kNone;
    const Json& others = schema.contains("additionalProperties") ? schema["additionalProperties"]
                         : named                                 ? kFalse
                                                                 : kTrue;
    if (!properties.is_object()) return Wrong(Below(path, "properties"), "must be an object");
    absl::StatusOr<std::set<std::string>> needed = RequiredOf(required, properties, path);
    if (!needed.ok()) return status_ = needed.status(), next;
    if (properties.empty() && others == true) return text_.AnyObject(next);

    const StateId end = text_.WhiteSpace(builder_.Byte('}', next));
    // What may follow before the first property and behind one.
    StateId at_first = end, behind = end;
    if (others != false) {
      std::set<std::string> names;
      for (const auto& property : properties.items()) names.insert(property.key());
      behind = builder_.Later();
      const StateId value =
          others == true ? text_.AnyValue(behind)
                         : builder_.Call(RuleOf(Below(path, "additionalProperties")), behind);
      const StateId pair =
          text_.WhiteSpace(text_.StringExcept(names, builder_.Byte(':', text_.WhiteSpace(value))));
      builder_.Set(behind, {builder_.Byte(',', pair), end});
      at_first = builder_.Split({pair, end});
    }
    std::vector<std::pair<std::string, const Json*>> members;
    for (const auto& item : properties.items()) members.emplace_back(item.key(), &item.value());
    for (size_t i = members.size(); i-- > 0 && builder_.Fits() && status_.ok();) {
      const auto& [name, value] = members[i];
      const StateId pair = text_.WhiteSpace(
          Key(name, Value(*value, Below(Below(path, "properties"), name), behind)));
      const StateId next_pair = builder_.Byte(',', pair);
      const bool must = needed->count(name) > 0;
      behind = must ? next_pair : builder_.Split({next_pair, behind});
      at_first = must ? pair : builder_.Split({pair, at_first});
    }
    return builder_.Byte('{', at_first);
  }

  const Json& root_;
  NfaBuilder builder_;
  JsonText text_;
  std::map<std::string, StateId> rules_;  // by JSON pointer
  std::vector<std::pair<std::string, StateId>> waiting_;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<Nfa> CompileJsonSchema(absl::string_view schema) {
  absl::StatusOr<Json> root = ParseSchema(schema);
  if (!root.ok()) return root.status();
  return SchemaCompiler(*root).Compile();
}

}  // namespace tauserve
