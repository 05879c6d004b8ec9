// Regular expressions: what ECMAScript, Python's re and RE2 agree on, on Unicode characters. Literals, `.` (no line
// terminator), classes, \d \w \s and their complements (ASCII), escapes, groups, alternatives, * + ? {m} {m,} {m,n}
// (also lazy: the language is the same). ^ and $ only at the ends of a top-level alternative. No back references,
// look-around, flags, word boundaries or Unicode properties.
#ifndef TAUSERVE_SERVER_CONSTRAINT_REGEX_H_
#define TAUSERVE_SERVER_CONSTRAINT_REGEX_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/constraint/code_points.h"
#include "server/constraint/nfa.h"

namespace tauserve {

class Regex {
 public:
  // InvalidArgument with the position of what is wrong, in bytes from 0.
  static absl::StatusOr<Regex> Parse(absl::string_view pattern);

  // All of the text matches, then `next`.
  StateId Match(NfaBuilder& builder, Spelling spelling, StateId next) const;
  // The text has a match, which is at its start or end where there are anchors.
  StateId Search(NfaBuilder& builder, Spelling spelling, StateId next) const;

 private:
  friend class RegexParser;
  struct Node {
    enum class Kind { kClass, kSequence, kAlternatives, kRepeat };
    Kind kind;
    CodePointSet characters;    // kClass
    std::vector<int> children;  // in nodes_; kRepeat has one
    int64_t min = 0;
    int64_t max = 0;  // below 0: no limit
  };
  struct Alternative {
    int node;
    bool at_start;
    bool at_end;
  };
  StateId Build(NfaBuilder& builder, int node, Spelling spelling, StateId next) const;

  std::vector<Node> nodes_;
  std::vector<Alternative> alternatives_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_CONSTRAINT_REGEX_H_
