// Constrained text: what a request's output has to match, as masks of the tokens that may come next. A token is allowed
// if and only if some text that begins with the text so far and this token matches.
//
// Compiling and the first mask are done when a request is admitted, off the engine's thread, in bounded time and memory;
// compiled constraints are kept for later requests. The masks of a place in the text are made when a text first comes
// there, and kept with the constraint.
#ifndef TAUSERVE_SERVER_CONSTRAINT_CONSTRAINT_H_
#define TAUSERVE_SERVER_CONSTRAINT_CONSTRAINT_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/constraint/automaton.h"
#include "server/constraint/nfa.h"
#include "server/constraint/token_trie.h"
#include "server/model/tokenizer/tokenizer.h"

namespace tauserve {

struct ConstraintSpec {
  enum class Kind { kNone, kRegex, kJsonSchema, kJsonObject };
  Kind kind = Kind::kNone;  // which is refused
  std::string text;         // the pattern or the schema

  bool operator==(const ConstraintSpec& o) const { return kind == o.kind && text == o.text; }
  template <typename H>
  friend H AbslHashValue(H h, const ConstraintSpec& s) {
    return H::combine(std::move(h), s.kind, s.text);
  }
};

inline constexpr size_t kMaxRegexBytes = 1 << 16;
inline constexpr size_t kMaxSchemaBytes = 1 << 18;

// The automaton of a constraint. InvalidArgument, beginning with "regex" or "json_schema" and the place of what is wrong.
absl::StatusOr<Nfa> CompileNfa(const ConstraintSpec& spec);

// Thread-safe.
class Constraint {
 public:
  // `tokenizer` must outlive this object; masks have `vocab_size` bits. `first_tokens` may be the same as `tokens`.
  Constraint(Nfa nfa, const Tokenizer* tokenizer, std::shared_ptr<const TokenTrie> tokens,
             std::shared_ptr<const TokenTrie> first_tokens, int32_t vocab_size, int64_t max_bytes);

  int64_t bytes() const;

 private:
  friend class ConstraintMatcher;
  const Tokenizer* const tokenizer_;
  const std::shared_ptr<const TokenTrie> tokens_;
  const std::shared_ptr<const TokenTrie> first_tokens_;
  mutable std::mutex mutex_;
  Automaton automaton_;
};

// Follows the output of one sequence.
class ConstraintMatcher {
 public:
  explicit ConstraintMatcher(std::shared_ptr<Constraint> constraint);

  // Sets the bits of the tokens that may come next, clears all others. Those that end an output are the caller's: they
  // may come if complete(). InvalidArgument where this takes too long, or where there is neither a token nor an end.
  absl::Status FillMask(absl::Span<uint64_t> mask);
  // Takes a token of the mask.
  void Accept(int32_t token);

  bool complete() const;  // the text so far matches
  bool final() const;     // ... and nothing may follow

 private:
  std::shared_ptr<Constraint> constraint_;
  Automaton::Place place_;
  bool first_ = true;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_CONSTRAINT_CONSTRAINT_H_
