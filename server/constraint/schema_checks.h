// What can be said of a JSON schema without building anything: whether it is JSON, which keywords it has, its bounds and
// references. Errors are InvalidArgument and begin with "json_schema" and a JSON pointer.
#ifndef TAUSERVE_SERVER_CONSTRAINT_SCHEMA_CHECKS_H_
#define TAUSERVE_SERVER_CONSTRAINT_SCHEMA_CHECKS_H_

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "server/constraint/json_text.h"

namespace tauserve {

inline constexpr int64_t kMaxCount = 100'000;  // of minLength and its like
inline constexpr size_t kMaxPropertyNameBytes = 1000;

absl::Status SchemaError(const std::string& path, absl::string_view what);
std::string ShortDump(const nlohmann::ordered_json& value);  // for messages
std::string MoreThan(const char* low, int64_t low_value, const char* high, int64_t high_value);
bool Contains(const std::vector<absl::string_view>& keys, absl::string_view key);

// At most 64 levels deep, no name twice in one object, none longer than kMaxPropertyNameBytes.
absl::StatusOr<nlohmann::ordered_json> ParseSchema(absl::string_view text);

// Every key of `schema` is an annotation or one of `known`; `beside` is for the message.
absl::Status CheckKeywords(const nlohmann::ordered_json& schema, const std::string& path,
                           const std::vector<std::vector<absl::string_view>>& known,
                           absl::string_view beside);

// The JSON pointer of a $ref, which is in the document.
absl::StatusOr<std::string> RefTarget(const nlohmann::ordered_json& root,
                                      const nlohmann::ordered_json& ref, const std::string& path);

// Whether `value` has a type that the schema names, if it names any.
bool HasType(const nlohmann::ordered_json& schema, const nlohmann::ordered_json& value);

struct NumberBounds {
  bool bounded = false;
  bool are_whole = true;
  WholeRange range;  // from bound to bound, rounded inwards
  WholeRange whole;  // the whole numbers that are allowed
};
// A bound that is not there is `limit`; none may be larger.
absl::StatusOr<NumberBounds> BoundsOf(const nlohmann::ordered_json& schema, const std::string& path,
                                      int64_t limit);

// The names in `required`; all are properties.
absl::StatusOr<std::set<std::string>> RequiredOf(const nlohmann::ordered_json& required,
                                                 const nlohmann::ordered_json& properties,
                                                 const std::string& path);

// Whether no value fits two of the schemas, as far as types and constant properties tell.
bool AreExclusive(const nlohmann::ordered_json& root, const nlohmann::ordered_json& schemas);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_CONSTRAINT_SCHEMA_CHECKS_H_
