#include "server/model/tokenizer/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace tauserve {
namespace {

// Unicode's White_Space, which \s means in tokenizer files. (PCRE2's \s has U+180E as well.)
constexpr char kSpaces[] =
    "\\t-\\r\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}"
    "\\x{3000}";

constexpr char kGpt2Pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

// Spells out \s and \S.
std::string SpellSpaces(const std::string& pattern) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); i++) {
    if (pattern[i] == '\\' && i + 1 < pattern.size()) {
      const char c = pattern[++i];
      if (c == 's') {
        absl::StrAppend(&out, in_class ? "" : "[", kSpaces, in_class ? "" : "]");
      } else if (c == 'S' && !in_class) {
        absl::StrAppend(&out, "[^", kSpaces, "]");
      } else {
        out += '\\';
        out += c;
      }
      continue;
    }
    if (pattern[i] == '[') in_class = true;
    if (pattern[i] == ']') in_class = false;
    out += pattern[i];
  }
  return out;
}

}  // namespace

struct SplitPattern::Code {
  explicit Code(pcre2_code* c) : code(c) {}
  ~Code() { pcre2_code_free(code); }
  pcre2_code* code;
};

absl::StatusOr<SplitPattern> SplitPattern::Compile(const std::string& pattern, bool literal) {
  const std::string spelled = literal ? pattern : SpellSpaces(pattern);
  // \C would cut characters, and nothing that comes later expects half of one.
  const uint32_t kind = literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(spelled.data()), spelled.size(),
                                   kind | PCRE2_UTF | PCRE2_NO_UTF_CHECK, &error, &offset, nullptr);
  if (code == nullptr) {
    PCRE2_UCHAR message[160];
    pcre2_get_error_message(error, message, sizeof(message));
    return absl::InvalidArgumentError(
        absl::StrCat("pattern '", pattern, "': ", reinterpret_cast<const char*>(message)));
  }
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without it matching is slower, not wrong
  SplitPattern result;
  result.code_ = std::make_shared<const Code>(code);
  return result;
}

template <typename Found>
absl::Status SplitPattern::ForEach(absl::string_view text, const Found& found) const {
  struct Match {
    explicit Match(const pcre2_code* code)
        : data(pcre2_match_data_create_from_pattern(code, nullptr)),
          context(pcre2_match_context_create(nullptr)),
          stack(pcre2_jit_stack_create(32 << 10, 16 << 20, nullptr)) {
      pcre2_jit_stack_assign(context, nullptr, stack);
      pcre2_set_match_limit(context, 100'000'000);
    }
    ~Match() {
      pcre2_match_data_free(data);
      pcre2_match_context_free(context);
      pcre2_jit_stack_free(stack);
    }
    pcre2_match_data* data;
    pcre2_match_context* context;
    pcre2_jit_stack* stack;
  } match(code_->code);
  size_t at = 0;
  while (at < text.size()) {
    const int n = pcre2_match(code_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                              at, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, match.data, match.context);
    if (n == PCRE2_ERROR_NOMATCH) break;
    if (n < 0) {
      return absl::InternalError(absl::StrCat("pattern failed at byte ", at, ": error ", n));
    }
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match.data);
    found(range[0], range[1]);
    at = range[1];
  }
  return absl::OkStatus();
}

absl::StatusOr<PreTokenizer> PreTokenizer::FromJson(const nlohmann::json& json) {
  PreTokenizer result;
  if (!json.is_null()) {
    if (absl::Status s = AddStages(json, result.stages_); !s.ok()) return s;
  }
  return result;
}

absl::Status PreTokenizer::AddStages(const nlohmann::json& json, std::vector<Stage>& stages) {
  const std::string type = json.at("type").get<std::string>();
  if (type == "Sequence") {
    for (const nlohmann::json& part : json.at("pretokenizers")) {
      if (absl::Status s = AddStages(part, stages); !s.ok()) return s;
    }
    return absl::OkStatus();
  }
  Stage stage;
  std::string pattern;
  bool literal = false;
  if (type == "ByteLevel") {
    stage.add_prefix_space = json.value("add_prefix_space", true);
    stage.split = json.value("use_regex", true);
    pattern = kGpt2Pattern;
  } else if (type == "Digits") {
    stage.split = true;
    const bool individual = json.value("individual_digits", false);
    pattern = "\\p{N}";
    if (!individual) stage.behavior = Behavior::kContiguous;
  } else if (type == "Split") {
    stage.split = true;
    stage.invert = json.value("invert", false);
    const nlohmann::json& p = json.at("pattern");
    if (p.contains("Regex")) {
      pattern = p.at("Regex").get<std::string>();
    } else {
      pattern = p.at("String").get<std::string>();
      literal = true;
    }
    const std::string behavior = json.at("behavior").get<std::string>();
    if (behavior == "Removed") {
      stage.behavior = Behavior::kRemoved;
    } else if (behavior == "MergedWithPrevious") {
      stage.behavior = Behavior::kMergedWithPrevious;
    } else if (behavior == "MergedWithNext") {
      stage.behavior = Behavior::kMergedWithNext;
    } else if (behavior == "Contiguous") {
      stage.behavior = Behavior::kContiguous;
    } else if (behavior != "Isolated") {
      return absl::UnimplementedError(absl::StrCat("split behavior '", behavior, "'"));
    }
  } else {
    return absl::UnimplementedError(absl::StrCat("pre_tokenizer '", type, "'"));
  }
  if (stage.split) {
    absl::StatusOr<SplitPattern> compiled = SplitPattern::Compile(pattern, literal);
    if (!compiled.ok()) return compiled.status();
    stage.pattern = *std::move(compiled);
  }
  stages.push_back(std::move(stage));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> PreTokenizer::Split(absl::string_view segment) const {
  std::vector<std::string> words = {std::string(segment)};
  for (const Stage& stage : stages_) {
    std::vector<std::string> next;
    for (std::string& word : words) {
      if (stage.add_prefix_space && !absl::StartsWith(word, " ")) word = absl::StrCat(" ", word);
      if (!stage.split) {
        next.push_back(std::move(word));
      } else if (absl::Status s = SplitWord(stage, word, next); !s.ok()) {
        return s;
      }
    }
    words = std::move(next);
  }
  return words;
}

absl::Status PreTokenizer::SplitWord(const Stage& stage, absl::string_view word,
                                     std::vector<std::string>& words) {
  struct Part {
    size_t begin, end;
    bool match;
  };
  std::vector<Part> parts;
  size_t at = 0;
  auto add = [&](size_t begin, size_t end, bool match) {
    if (begin < end) parts.push_back({begin, end, match != stage.invert});
  };
  absl::Status status = stage.pattern.ForEach(word, [&](size_t begin, size_t end) {
    add(at, begin, false);
    add(begin, end, true);
    at = end;
  });
  if (!status.ok()) return status;
  add(at, word.size(), false);

  std::vector<Part> joined;
  for (size_t i = 0; i < parts.size(); i++) {
    const Part& p = parts[i];
    const bool behind_match = i > 0 && parts[i - 1].match;
    switch (stage.behavior) {
      case Behavior::kRemoved:
        if (!p.match) joined.push_back(p);
        break;
      case Behavior::kIsolated:
        joined.push_back(p);
        break;
      case Behavior::kContiguous:
        if (i > 0 && parts[i - 1].match == p.match) {
          joined.back().end = p.end;
        } else {
          joined.push_back(p);
        }
        break;
      case Behavior::kMergedWithPrevious:
        if (p.match && i > 0 && !behind_match) {
          joined.back().end = p.end;
        } else {
          joined.push_back(p);
        }
        break;
      case Behavior::kMergedWithNext:
        if (!p.match && behind_match) {
          joined.back().end = p.end;
        } else {
          joined.push_back(p);
        }
        break;
    }
  }
  for (const Part& p : joined) words.emplace_back(word.substr(p.begin, p.end - p.begin));
  return absl::OkStatus();
}

}  // namespace tauserve
