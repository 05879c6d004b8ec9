#include "server/constraint/regex.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/model/tokenizer/utf8.h"

namespace tauserve {
namespace {

constexpr int kMaxGroups = 100;  // inside of each other
constexpr int64_t kMaxCount = 100000;

CodePointSet Digits() { return CodePointSet::Range('0', '9'); }

CodePointSet WordCharacters() {
  CodePointSet set = Digits();
  set.Add('a', 'z');
  set.Add('A', 'Z');
  set.Add('_', '_');
  return set;
}

CodePointSet WhiteSpace() {
  CodePointSet set = CodePointSet::Range('\t', '\r');
  set.Add(' ', ' ');
  return set;
}

CodePointSet AnyButLineTerminators() {
  CodePointSet set = CodePointSet::Range('\n', '\n');
  set.Add('\r', '\r');
  set.Add(0x2028, 0x2029);
  return set.Complement();
}

// The class of \d, \D, ...; nullopt for another letter.
std::optional<CodePointSet> ClassEscape(uint32_t letter) {
  switch (letter) {
    case 'd':
      return Digits();
    case 'D':
      return Digits().Complement();
    case 'w':
      return WordCharacters();
    case 'W':
      return WordCharacters().Complement();
    case 's':
      return WhiteSpace();
    case 'S':
      return WhiteSpace().Complement();
    default:
      return std::nullopt;
  }
}

}  // namespace

class RegexParser {
 public:
  explicit RegexParser(absl::string_view pattern) : pattern_(pattern) {}

  absl::StatusOr<Regex> Parse() {
    if (const size_t bad = FindInvalidUtf8(pattern_); bad != absl::string_view::npos) {
      at_ = bad;
      return Wrong("invalid UTF-8");
    }
    do {
      Regex::Alternative alternative = {0, Take('^'), false};
      absl::StatusOr<int> node = Sequence(0);
      if (!node.ok()) return node.status();
      alternative.node = *node;
      alternative.at_end = Take('$');
      regex_.alternatives_.push_back(alternative);
      if (AtEnd()) break;
      if (Peek() == ')') return Wrong("a ) without its (");
    } while (Take('|'));
    if (!AtEnd()) return Wrong("something behind $");
    return std::move(regex_);
  }

 private:
  using Node = Regex::Node;
  struct Escape {
    CodePointSet set;
    std::optional<uint32_t> character;  // unset for a class
  };

  bool AtEnd() const { return at_ == pattern_.size(); }
  char Peek() const { return AtEnd() ? '\0' : pattern_[at_]; }
  bool Take(absl::string_view text) {
    if (pattern_.substr(at_, text.size()) != text) return false;
    at_ += text.size();
    return true;
  }
  bool Take(char c) { return Take(absl::string_view(&c, 1)); }
  uint32_t TakeCharacter() {
    const Utf8Part part = NextUtf8(pattern_.substr(at_));
    at_ += part.length;
    return part.code_point;
  }
  absl::Status Wrong(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat("position ", at_, ": ", what));
  }
  int Add(Node node) {
    regex_.nodes_.push_back(std::move(node));
    return static_cast<int>(regex_.nodes_.size()) - 1;
  }
  // In the shortest form, since a repeated class is built many times.
  int AddClass(const CodePointSet& set) {
    return Add({Node::Kind::kClass, set.Complement().Complement(), {}});
  }

  absl::StatusOr<int> Alternatives(int groups) {
    Node node = {Node::Kind::kAlternatives, {}, {}};
    do {
      absl::StatusOr<int> alternative = Sequence(groups);
      if (!alternative.ok()) return alternative;
      node.children.push_back(*alternative);
    } while (Take('|'));
    return Add(std::move(node));
  }

  // Up to | or ) or the end, or, outside of groups, up to a $.
  absl::StatusOr<int> Sequence(int groups) {
    Node node = {Node::Kind::kSequence, {}, {}};
    while (!AtEnd() && Peek() != '|' && Peek() != ')') {
      if (Peek() == '$' && groups == 0) break;
      absl::StatusOr<int> item = Item(groups);
      if (item.ok()) item = Quantified(*item);
      if (!item.ok()) return item;
      node.children.push_back(*item);
    }
    return Add(std::move(node));
  }

  absl::StatusOr<int> Item(int groups) {
    switch (Peek()) {
      case '(':
        return Group(groups);
      case '[':
        return Class();
      case '\\': {
        absl::StatusOr<Escape> escape = TakeEscape(false);
        if (!escape.ok()) return escape.status();
        return AddClass(escape->set);
      }
      case '.':
        at_++;
        return AddClass(AnyButLineTerminators());
      case '^':
      case '$':
        return Wrong("^ and $ are supported only at the ends of a top-level alternative");
      case '*':
      case '+':
      case '?':
      case '{':
        return Wrong("a quantifier with nothing to repeat");
      case ']':
      case '}':
        return Wrong("a bracket without its opening one; write it with a backslash");
      default: {
        const uint32_t c = TakeCharacter();
        return AddClass(CodePointSet::Range(c, c));
      }
    }
  }

  absl::StatusOr<int> Group(int groups) {
    const size_t begin = at_++;
    if (groups == kMaxGroups) {
      return Wrong(absl::StrCat("more than ", kMaxGroups, " groups inside of each other"));
    }
    if (Peek() == '?') {
      if (!Take("?:") && !TakeName()) {
        return Wrong("groups (?...) are supported only as (?:...), (?<name>...), (?P<name>...)");
      }
    }
    absl::StatusOr<int> inside = Alternatives(groups + 1);
    if (!inside.ok()) return inside;
    if (!Take(')')) {
      at_ = begin;
      return Wrong("a ( without its )");
    }
    return inside;
  }

  bool TakeName() {
    size_t at = at_ + 1;
    if (at < pattern_.size() && pattern_[at] == 'P') at++;
    if (at >= pattern_.size() || pattern_[at] != '<') return false;
    const size_t name = ++at;
    while (at < pattern_.size() && (absl::ascii_isalnum(pattern_[at]) || pattern_[at] == '_')) at++;
    if (at == name || at >= pattern_.size() || pattern_[at] != '>') return false;
    at_ = at + 1;
    return true;
  }

  absl::StatusOr<int> Quantified(int item) {
    Node node = {Node::Kind::kRepeat, {}, {item}};
    if (Take('*')) {
      node.max = -1;
    } else if (Take('+')) {
      node.min = 1;
      node.max = -1;
    } else if (Take('?')) {
      node.max = 1;
    } else if (Take('{')) {
      absl::Status status = Counts(node.min, node.max);
      if (!status.ok()) return status;
    } else {
      return item;
    }
    Take('?');  // lazy
    if (!AtEnd() && absl::StrContains("*+?{", Peek())) {
      return Wrong("a quantifier behind a quantifier; put a group around the first");
    }
    return Add(std::move(node));
  }

  absl::Status Counts(int64_t& min, int64_t& max) {
    if (absl::Status s = Count(min); !s.ok()) return s;
    max = min;
    if (Take(',')) {
      max = -1;
      if (Peek() != '}') {
        if (absl::Status s = Count(max); !s.ok()) return s;
        if (max < min) return Wrong(absl::StrCat("{", min, ",", max, "} is empty"));
      }
    }
    return Take('}') ? absl::OkStatus() : Wrong("expected } of {m}, {m,} or {m,n}");
  }

  absl::Status Count(int64_t& count) {
    if (!absl::ascii_isdigit(Peek())) return Wrong("expected a number of repetitions");
    count = 0;
    while (absl::ascii_isdigit(Peek())) {
      count = 10 * count + (pattern_[at_] - '0');
      if (count > kMaxCount) {
        return Wrong(absl::StrCat("a number of repetitions above ", kMaxCount));
      }
      at_++;
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Escape> TakeEscape(bool in_class) {
    at_++;
    if (AtEnd()) return Wrong("a backslash at the end");
    const size_t letter_at = at_;
    const uint32_t letter = TakeCharacter();
    if (std::optional<CodePointSet> set = ClassEscape(letter)) return Escape{*std::move(set), {}};
    std::optional<uint32_t> c;
    if (letter == 'n') c = '\n';
    if (letter == 'r') c = '\r';
    if (letter == 't') c = '\t';
    if (letter == 'f') c = '\f';
    if (letter == 'v') c = '\v';
    if (letter == '0' && !absl::ascii_isdigit(Peek())) c = '\0';
    if (letter == 'b' && in_class) c = '\b';
    if (letter == 'x') c = Hex(2);
    if (letter == 'u') c = Take('{') ? Hex(0) : Hex(4);
    if (letter < 0x80 && absl::ascii_ispunct(static_cast<unsigned char>(letter))) c = letter;
    if (!c || *c > 0x10ffff || (*c >= 0xd800 && *c <= 0xdfff)) {
      at_ = letter_at;
      return Wrong(absl::StrCat("the escape \\", pattern_.substr(at_, 1), " is not supported"));
    }
    return Escape{CodePointSet::Range(*c, *c), c};
  }

  // 0 digits: up to six and a }.
  std::optional<uint32_t> Hex(int digits) {
    const size_t end = digits > 0 ? at_ + digits : pattern_.find('}', at_);
    if (end == absl::string_view::npos || end > pattern_.size() || end == at_ || end > at_ + 6) {
      return std::nullopt;
    }
    uint32_t value = 0;
    for (; at_ < end; at_++) {
      const char c = pattern_[at_];
      if (!absl::ascii_isxdigit(c)) return std::nullopt;
      value = value * 16 + (c > '9' ? absl::ascii_tolower(c) - 'a' + 10 : c - '0');
    }
    if (digits == 0) at_++;
    return value;
  }

  absl::StatusOr<int> Class() {
    const size_t begin = at_++;
    const bool negated = Take('^');
    CodePointSet set;
    if (Peek() == ']') return Wrong("an empty class; write ] with a backslash");
    while (!Take(']')) {
      if (AtEnd()) {
        at_ = begin;
        return Wrong("a [ without its ]");
      }
      if (Peek() == '[') return Wrong("a [ in a class; write it with a backslash");
      absl::StatusOr<Escape> first = ClassItem();
      if (!first.ok()) return first.status();
      if (Peek() != '-' || pattern_.substr(at_ + 1, 1) == "]") {
        set.Add(first->set);
        continue;
      }
      at_++;
      if (AtEnd()) continue;
      absl::StatusOr<Escape> last = ClassItem();
      if (!last.ok()) return last.status();
      if (!first->character || !last->character || *first->character > *last->character) {
        return Wrong("a range of a class must go up from a character to a character");
      }
      set.Add(*first->character, *last->character);
    }
    return AddClass(negated ? set.Complement() : set);
  }

  absl::StatusOr<Escape> ClassItem() {
    if (Peek() == '\\') return TakeEscape(true);
    const uint32_t c = TakeCharacter();
    return Escape{CodePointSet::Range(c, c), c};
  }

  absl::string_view pattern_;
  size_t at_ = 0;
  Regex regex_;
};

absl::StatusOr<Regex> Regex::Parse(absl::string_view pattern) {
  return RegexParser(pattern).Parse();
}

StateId Regex::Match(NfaBuilder& builder, Spelling spelling, StateId next) const {
  std::vector<StateId> starts;
  for (const Alternative& a : alternatives_) {
    starts.push_back(Build(builder, a.node, spelling, next));
  }
  return builder.Split(std::move(starts));
}

StateId Regex::Search(NfaBuilder& builder, Spelling spelling, StateId next) const {
  const auto anything = [&](StateId to) {
    return builder.Repeat(0, -1, to, [&](StateId again) {
      return AnyOf(builder, CodePointSet::All(), spelling, again);
    });
  };
  std::vector<StateId> starts;
  for (const Alternative& a : alternatives_) {
    StateId state = a.at_end ? next : anything(next);
    state = Build(builder, a.node, spelling, state);
    starts.push_back(a.at_start ? state : anything(state));
  }
  return builder.Split(std::move(starts));
}

StateId Regex::Build(NfaBuilder& builder, int index, Spelling spelling, StateId next) const {
  if (!builder.Fits()) return next;
  const Node& node = nodes_[index];
  switch (node.kind) {
    case Node::Kind::kClass:
      return AnyOf(builder, node.characters, spelling, next);
    case Node::Kind::kSequence:
      for (size_t i = node.children.size(); i-- > 0;) {
        next = Build(builder, node.children[i], spelling, next);
      }
      return next;
    case Node::Kind::kAlternatives: {
      std::vector<StateId> starts;
      for (int child : node.children) starts.push_back(Build(builder, child, spelling, next));
      return builder.Split(std::move(starts));
    }
    case Node::Kind::kRepeat:
      return builder.Repeat(node.min, node.max, next, [&](StateId to) {
        return Build(builder, node.children[0], spelling, to);
      });
  }
  return next;
}

}  // namespace tauserve
