// Any bytes as a constraint on output: what compiles can be followed by the embedded model's tokens, and the masks' tokens
// lead to what the bytes alone lead to. The first byte chooses among the tokens.
#ifndef TAUSERVE_TESTS_FUZZ_CHECK_CONSTRAINT_H_
#define TAUSERVE_TESTS_FUZZ_CHECK_CONSTRAINT_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "server/constraint/constraint_cache.h"
#include "tests/fuzz/embedded_tokenizer.h"
#include "tests/fuzz/memory_folder.h"

namespace tauserve {

inline constexpr int32_t kConstraintVocab = 4096;
inline constexpr int kConstraintTokens = 24;

inline void CheckConstraint(ConstraintSpec::Kind kind, const uint8_t* data, size_t size) {
  static const Tokenizer* const tokenizer = LoadEmbeddedTokenizer().release();
  static ConstraintCache* const cache =
      new ConstraintCache(tokenizer, kConstraintVocab, 16 << 20, nullptr);
  if (size == 0) return;
  uint32_t random = data[0];
  const ConstraintSpec spec{kind, std::string(AsText(data + 1, size - 1))};
  const auto constraint = cache->Get(spec);
  if (!constraint.ok()) {
    TAUSERVE_CHECK(absl::IsInvalidArgument(constraint.status()), "a refusal");
    TAUSERVE_CHECK(constraint.status().message().size() < 4096, "a message that fits a status");
    return;
  }
  absl::StatusOr<Nfa> nfa = CompileNfa(spec);
  TAUSERVE_CHECK(nfa.ok(), "what compiled compiles again");
  Automaton bytes(*std::move(nfa), kConstraintVocab, 16 << 20);
  ConstraintMatcher matcher(*constraint);
  std::vector<uint64_t> mask(kConstraintVocab / 64);
  std::string text;
  for (int step = 0; step < kConstraintTokens; step++) {
    if (const absl::Status s = matcher.FillMask(absl::MakeSpan(mask)); !s.ok()) {
      TAUSERVE_CHECK(absl::IsInvalidArgument(s), "a refusal");
      return;
    }
    std::vector<int32_t> allowed;
    for (int32_t id = 0; id < kConstraintVocab; id++) {
      if (mask[id / 64] >> id % 64 & 1) allowed.push_back(id);
    }
    TAUSERVE_CHECK(!allowed.empty() || matcher.complete(), "a token or an end");
    TAUSERVE_CHECK(!matcher.final() || allowed.empty(), "nothing follows the end");
    if (allowed.empty()) return;
    random = random * 1664525 + 1013904223;
    const int32_t token = allowed[(random >> 8) % allowed.size()];
    TAUSERVE_CHECK(!tokenizer->IsSpecial(token), "a token with a text");
    text += tokenizer->TokenBytes(token, text.empty());
    matcher.Accept(token);
    const Automaton::Place place = bytes.Follow(bytes.Start(), text);
    TAUSERVE_CHECK(static_cast<bool>(place), "a text that a match begins with");
    TAUSERVE_CHECK(Automaton::Complete(place) == matcher.complete(), "the same places");
    if (kind == ConstraintSpec::Kind::kJsonSchema && matcher.complete()) {
      TAUSERVE_CHECK(nlohmann::json::accept(text), "JSON");
    }
  }
}

}  // namespace tauserve

#endif  // TAUSERVE_TESTS_FUZZ_CHECK_CONSTRAINT_H_
