// The parts of JSON texts: white space, strings, numbers, and values of any kind. White space is at most one space, or a
// line break and up to 20 spaces or tabs, so that no output is white space for ever; none stands before a comma or colon.
#ifndef TAUSERVE_SERVER_CONSTRAINT_JSON_TEXT_H_
#define TAUSERVE_SERVER_CONSTRAINT_JSON_TEXT_H_

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/constraint/nfa.h"
#include "server/constraint/regex.h"

namespace tauserve {

// Of whole numbers, both ends included.
struct WholeRange {
  int64_t min;
  int64_t max;
};
inline constexpr int64_t kMaxInteger = 999'999'999'999'999'999;  // 18 digits
inline constexpr int64_t kMaxBound = 1'000'000'000;              // of a number with a fraction

class JsonText {
 public:
  explicit JsonText(NfaBuilder* builder) : builder_(*builder) {}

  StateId WhiteSpace(StateId next);
  // A fixed string, with its quotes.
  StateId Literal(const std::string& value, StateId next);
  StateId AnyString(StateId next);
  StateId StringOfLength(int64_t min, int64_t max,
                         StateId next);                    // in characters; max < 0: no limit
  StateId StringWith(const Regex& pattern, StateId next);  // where `pattern` is found
  StateId StringExcept(const std::set<std::string>& values, StateId next);
  StateId Integer(StateId next);
  StateId Integer(WholeRange range, StateId next);
  StateId Number(StateId next);
  // Whole numbers of `whole`, and fractions between two whole numbers of `range`.
  StateId Number(WholeRange range, WholeRange whole, StateId next);
  StateId AnyValue(StateId next);
  StateId AnyObject(StateId next);
  StateId AnyArray(StateId next);

 private:
  StateId Pattern(absl::string_view pattern, StateId next);
  StateId Quoted(StateId inside) { return builder_.Byte('"', inside); }
  StateId Character(StateId next);
  StateId Except(const std::vector<std::u32string>& values, size_t begin, size_t end, size_t depth,
                 StateId next);
  StateId List(char open, char close, StateId rule);
  StateId AnyValueRule();

  NfaBuilder& builder_;
  std::optional<StateId> value_rule_, object_rule_, array_rule_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_CONSTRAINT_JSON_TEXT_H_
