// Sets of Unicode characters, and automata of their spellings: in UTF-8, or as a JSON string spells them.
#ifndef TAUSERVE_SERVER_CONSTRAINT_CODE_POINTS_H_
#define TAUSERVE_SERVER_CONSTRAINT_CODE_POINTS_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "server/constraint/nfa.h"

namespace tauserve {

// Never holds surrogates: they are no characters.
class CodePointSet {
 public:
  static CodePointSet All();
  static CodePointSet Range(uint32_t lo, uint32_t hi);

  void Add(uint32_t lo, uint32_t hi);
  void Add(const CodePointSet& other);
  CodePointSet Complement() const;
  CodePointSet Minus(const CodePointSet& other) const;
  bool Contains(uint32_t code_point) const;
  // In order, apart from each other; without surrogates.
  std::vector<std::pair<uint32_t, uint32_t>> Ranges() const;

 private:
  std::vector<std::pair<uint32_t, uint32_t>> ranges_;  // as added
};

enum class Spelling {
  kUtf8,
  // Inside of a JSON string: quote, backslash and control characters are escaped, in one way each, and nothing else is.
  kJsonString,
};

// One character of `set`, then `next`.
StateId AnyOf(NfaBuilder& builder, const CodePointSet& set, Spelling spelling, StateId next);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_CONSTRAINT_CODE_POINTS_H_
