#include "server/constraint/json_text.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/check.h"
#include "server/model/tokenizer/utf8.h"

namespace tauserve {
namespace {

constexpr int kMaxIndentation = 20;

std::u32string CodePoints(absl::string_view text) {
  std::u32string code_points;
  while (!text.empty()) {
    const Utf8Part part = NextUtf8(text);
    code_points.push_back(part.code_point);
    text.remove_prefix(part.length);
  }
  return code_points;
}

// Patterns of the numbers from `a` to `b`, which have as many digits.
void AddDigitRanges(const std::string& a, const std::string& b, const std::string& prefix,
                    std::vector<std::string>& patterns) {
  const std::string zeros(a.size(), '0'), nines(a.size(), '9');
  if (a == zeros && b == nines) {
    patterns.push_back(a.empty() ? prefix : absl::StrCat(prefix, "[0-9]{", a.size(), "}"));
    return;
  }
  if (a[0] == b[0]) {
    return AddDigitRanges(a.substr(1), b.substr(1), prefix + a[0], patterns);
  }
  const std::string rest_zeros = zeros.substr(1), rest_nines = nines.substr(1);
  char first = a[0], last = b[0];
  if (a.substr(1) != rest_zeros) {
    AddDigitRanges(a.substr(1), rest_nines, prefix + first++, patterns);
  }
  const bool cut = b.substr(1) != rest_nines;
  if (cut) last--;
  if (first <= last) {
    patterns.push_back(absl::StrCat(prefix, "[", std::string(1, first), "-", std::string(1, last),
                                    "][0-9]{", a.size() - 1, "}"));
  }
  if (cut) AddDigitRanges(rest_zeros, b.substr(1), prefix + b[0], patterns);
}

// Of the numbers from a to b, 0 <= a.
void AddRange(int64_t a, int64_t b, const std::string& prefix, std::vector<std::string>& patterns) {
  while (a <= b) {
    const std::string low = absl::StrCat(a);
    std::string high = std::string(low.size(), '9');
    if (high.size() >= absl::StrCat(b).size()) high = absl::StrCat(b);
    AddDigitRanges(low, high, prefix, patterns);
    a = std::strtoll(high.c_str(), nullptr, 10) + 1;
  }
}

std::vector<std::string> RangePatterns(WholeRange range) {
  std::vector<std::string> patterns;
  if (range.min < 0) AddRange(std::max<int64_t>(1, -range.max), -range.min, "-", patterns);
  if (range.max >= 0) AddRange(std::max<int64_t>(0, range.min), range.max, "", patterns);
  return patterns;
}

}  // namespace

StateId JsonText::Pattern(absl::string_view pattern, StateId next) {
  absl::StatusOr<Regex> regex = Regex::Parse(pattern);
  TAUSERVE_CHECK(regex.ok(), "a pattern of this file");
  return regex->Match(builder_, Spelling::kUtf8, next);
}

StateId JsonText::WhiteSpace(StateId next) {
  StateId indentation = next;
  for (int i = 0; i < kMaxIndentation; i++) {
    const StateId more = builder_.Bytes({{' ', ' ', indentation}, {'\t', '\t', indentation}});
    indentation = builder_.Split({more, next});
  }
  return builder_.Split({next, builder_.Bytes({{' ', ' ', next}, {'\n', '\n', indentation}})});
}

StateId JsonText::Character(StateId next) {
  return AnyOf(builder_, CodePointSet::All(), Spelling::kJsonString, next);
}

StateId JsonText::Literal(const std::string& value, StateId next) {
  const std::u32string code_points = CodePoints(value);
  StateId state = builder_.Byte('"', next);
  for (size_t i = code_points.size(); i-- > 0 && builder_.Fits();) {
    const CodePointSet one = CodePointSet::Range(code_points[i], code_points[i]);
    state = AnyOf(builder_, one, Spelling::kJsonString, state);
  }
  return Quoted(state);
}

StateId JsonText::AnyString(StateId next) { return StringOfLength(0, -1, next); }

StateId JsonText::StringOfLength(int64_t min, int64_t max, StateId next) {
  return Quoted(builder_.Repeat(min, max, builder_.Byte('"', next),
                                [this](StateId to) { return Character(to); }));
}

StateId JsonText::StringWith(const Regex& pattern, StateId next) {
  return Quoted(pattern.Search(builder_, Spelling::kJsonString, builder_.Byte('"', next)));
}

StateId JsonText::StringExcept(const std::set<std::string>& values, StateId next) {
  std::vector<std::u32string> spelled;
  for (const std::string& value : values) spelled.push_back(CodePoints(value));
  std::sort(spelled.begin(), spelled.end());
  return Quoted(Except(spelled, 0, spelled.size(), 0, next));
}

// What may follow behind the first `depth` characters of values [begin, end), which are the same.
StateId JsonText::Except(const std::vector<std::u32string>& values, size_t begin, size_t end,
                         size_t depth, StateId next) {
  if (!builder_.Fits()) return next;
  std::vector<StateId> ways;
  CodePointSet branches;
  if (begin < end && values[begin].size() == depth) {
    begin++;
  } else {
    ways.push_back(builder_.Byte('"', next));
  }
  while (begin < end) {
    const uint32_t c = values[begin][depth];
    size_t same = begin;
    while (same < end && values[same][depth] == c) same++;
    const StateId behind = Except(values, begin, same, depth + 1, next);
    const CodePointSet one = CodePointSet::Range(c, c);
    ways.push_back(AnyOf(builder_, one, Spelling::kJsonString, behind));
    branches.Add(one);
    begin = same;
  }
  const StateId rest = builder_.Repeat(0, -1, builder_.Byte('"', next),
                                       [this](StateId to) { return Character(to); });
  ways.push_back(AnyOf(builder_, branches.Complement(), Spelling::kJsonString, rest));
  return builder_.Split(std::move(ways));
}

StateId JsonText::Integer(StateId next) { return Pattern("-?(0|[1-9][0-9]{0,17})", next); }

StateId JsonText::Integer(WholeRange range, StateId next) {
  return Pattern(absl::StrJoin(RangePatterns(range), "|"), next);
}

// Within what a double holds.
StateId JsonText::Number(StateId next) {
  return Pattern("-?(0|[1-9][0-9]{0,14})(\\.[0-9]{1,15})?([eE][+-]?[0-9]{1,2})?", next);
}

// Fractions end in a digit that is not 0, so that they are no whole numbers, and are short enough for a double to tell
// them from these.
StateId JsonText::Number(WholeRange range, WholeRange whole, StateId next) {
  std::vector<StateId> ways;
  if (whole.min <= whole.max) ways.push_back(Integer(whole, next));
  std::vector<std::string> patterns;
  if (range.min < 0) {  // -k.f is between -(k+1) and -k
    AddRange(std::max<int64_t>(0, -range.max), -range.min - 1, "-", patterns);
  }
  if (range.max > 0) AddRange(std::max<int64_t>(0, range.min), range.max - 1, "", patterns);
  if (!patterns.empty()) {
    ways.push_back(
        Pattern(absl::StrCat("(", absl::StrJoin(patterns, "|"), ")\\.[0-9]{0,5}[1-9]"), next));
  }
  return builder_.Split(std::move(ways));
}

// `open`, items of `rule` with commas between, `close`; the rule's own automaton.
StateId JsonText::List(char open, char close, StateId rule) {
  const StateId end = WhiteSpace(builder_.Byte(close, Nfa::kReturnState));
  const StateId more = builder_.Later();
  StateId item = builder_.Call(rule, more);
  if (open == '{') item = AnyString(builder_.Byte(':', WhiteSpace(item)));
  builder_.Set(more, {builder_.Byte(',', WhiteSpace(item)), end});
  return builder_.Byte(open, builder_.Split({WhiteSpace(item), end}));
}

StateId JsonText::AnyValueRule() {
  if (value_rule_) return *value_rule_;
  value_rule_ = builder_.Later();
  object_rule_ = builder_.Later();
  array_rule_ = builder_.Later();
  const StateId end = Nfa::kReturnState;
  const StateId object = List('{', '}', *value_rule_), array = List('[', ']', *value_rule_);
  builder_.Set(*object_rule_, {object});
  builder_.Set(*array_rule_, {array});
  builder_.Set(*value_rule_,
               {AnyString(end), Number(end), Pattern("true|false|null", end), object, array});
  return *value_rule_;
}

StateId JsonText::AnyValue(StateId next) { return builder_.Call(AnyValueRule(), next); }

StateId JsonText::AnyObject(StateId next) {
  AnyValueRule();
  return builder_.Call(*object_rule_, next);
}

StateId JsonText::AnyArray(StateId next) {
  AnyValueRule();
  return builder_.Call(*array_rule_, next);
}

}  // namespace tauserve
