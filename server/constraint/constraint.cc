#include "server/constraint/constraint.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "server/constraint/json_schema.h"
#include "server/constraint/regex.h"

namespace tauserve {
namespace {

absl::Status Prefixed(absl::string_view prefix, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(prefix, status.message()));
}

absl::Status TooLong(const char* field, size_t size, size_t limit) {
  return absl::InvalidArgumentError(
      absl::StrCat(field, " has ", size, " bytes, the limit is ", limit));
}

absl::StatusOr<Nfa> CompileRegex(const std::string& pattern) {
  if (pattern.size() > kMaxRegexBytes) return TooLong("regex", pattern.size(), kMaxRegexBytes);
  absl::StatusOr<Regex> regex = Regex::Parse(pattern);
  if (!regex.ok()) return Prefixed("regex: ", regex.status());
  NfaBuilder builder;
  const StateId start = regex->Match(builder, Spelling::kUtf8, Nfa::kReturnState);
  absl::StatusOr<Nfa> nfa = builder.Finish(start);
  return nfa.ok() ? std::move(nfa) : Prefixed("regex ", nfa.status());
}

}  // namespace

absl::StatusOr<Nfa> CompileNfa(const ConstraintSpec& spec) {
  switch (spec.kind) {
    case ConstraintSpec::Kind::kRegex:
      return CompileRegex(spec.text);
    case ConstraintSpec::Kind::kJsonSchema:
      if (spec.text.size() > kMaxSchemaBytes) {
        return TooLong("json_schema", spec.text.size(), kMaxSchemaBytes);
      }
      return CompileJsonSchema(spec.text);
    case ConstraintSpec::Kind::kJsonObject:
      return CompileJsonSchema(R"({"type":"object"})");
    case ConstraintSpec::Kind::kNone:
      break;
  }
  return absl::InvalidArgumentError(
      "structured_output is empty: set regex, json_schema or json_object");
}

Constraint::Constraint(Nfa nfa, const Tokenizer* tokenizer, std::shared_ptr<const TokenTrie> tokens,
                       std::shared_ptr<const TokenTrie> first_tokens, int32_t vocab_size,
                       int64_t max_bytes)
    : tokenizer_(tokenizer),
      tokens_(std::move(tokens)),
      first_tokens_(std::move(first_tokens)),
      automaton_(std::move(nfa), vocab_size, max_bytes) {}

int64_t Constraint::bytes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return automaton_.bytes();
}

ConstraintMatcher::ConstraintMatcher(std::shared_ptr<Constraint> constraint)
    : constraint_(std::move(constraint)) {
  std::lock_guard<std::mutex> lock(constraint_->mutex_);
  place_ = constraint_->automaton_.Start();
}

absl::Status ConstraintMatcher::FillMask(absl::Span<uint64_t> mask) {
  Constraint& c = *constraint_;
  std::lock_guard<std::mutex> lock(c.mutex_);
  const TokenTrie& trie = first_ ? *c.first_tokens_ : *c.tokens_;
  const bool own_first = first_ && c.first_tokens_ != c.tokens_;
  absl::StatusOr<const TokenMask*> made = c.automaton_.Mask(place_, trie, own_first);
  if (!made.ok()) return made.status();
  TAUSERVE_CHECK(mask.size() == (*made)->size(), "a mask of another vocabulary");
  std::copy((*made)->begin(), (*made)->end(), mask.begin());
  const bool some = std::any_of(mask.begin(), mask.end(), [](uint64_t word) { return word != 0; });
  if (!some && !Automaton::Complete(place_)) {
    return absl::InvalidArgumentError(
        "no token of the vocabulary continues the output as its constraint asks");
  }
  return absl::OkStatus();
}

void ConstraintMatcher::Accept(int32_t token) {
  Constraint& c = *constraint_;
  const std::string bytes = c.tokenizer_->TokenBytes(token, first_);
  std::lock_guard<std::mutex> lock(c.mutex_);
  place_ = c.automaton_.Follow(place_, bytes);
  TAUSERVE_CHECK(place_, "only tokens of the mask are taken");
  first_ = false;
}

bool ConstraintMatcher::complete() const { return Automaton::Complete(place_); }
bool ConstraintMatcher::final() const { return Automaton::Final(place_); }

}  // namespace tauserve
