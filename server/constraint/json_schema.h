// JSON schemas as automata: every text that matches is JSON that the schema is valid for. The subset is in docs/api.md;
// whatever is outside of it is refused, never left out silently.
#ifndef TAUSERVE_SERVER_CONSTRAINT_JSON_SCHEMA_H_
#define TAUSERVE_SERVER_CONSTRAINT_JSON_SCHEMA_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/constraint/nfa.h"

namespace tauserve {

// InvalidArgument, beginning with "json_schema" and the JSON pointer of what is wrong.
absl::StatusOr<Nfa> CompileJsonSchema(absl::string_view schema);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_CONSTRAINT_JSON_SCHEMA_H_
