// A nondeterministic automaton over bytes with rules that call each other: what a regular expression or a JSON schema is
// compiled to. Its builder works from the end of the text to its start: to build a part, say which state follows it.
#ifndef TAUSERVE_SERVER_CONSTRAINT_NFA_H_
#define TAUSERVE_SERVER_CONSTRAINT_NFA_H_

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tauserve {

using StateId = int32_t;

// Calls that may be open at once: how deep JSON may be nested where its schema does not say.
inline constexpr int kMaxCallDepth = 64;

struct ByteEdge {
  uint8_t lo;
  uint8_t hi;
  StateId to;
};

struct Nfa {
  enum class Kind : uint8_t { kReturn, kBytes, kSplit, kCall };
  struct State {
    Kind kind = Kind::kReturn;
    int32_t begin =
        0;  // in edges (kBytes) or targets (kSplit, kCall: start of the rule, state after it)
    int32_t count = 0;
  };
  static constexpr StateId kReturnState = 0;
  static constexpr uint8_t kNever = 255;

  std::vector<State> states;
  std::vector<ByteEdge> edges;
  std::vector<StateId> targets;
  // The fewest calls that must be open at once, beyond those that are, to come from a state to its rule's end; kNever
  // where more than kMaxCallDepth are or there is no way.
  std::vector<uint8_t> need;
  StateId start = 0;
  // Bytes that no edge tells apart have the same class.
  std::array<uint8_t, 256> byte_class{};
  std::vector<uint8_t> class_byte;  // one byte of each class

  int64_t bytes() const;
};

class NfaBuilder {
 public:
  NfaBuilder();

  StateId Bytes(std::vector<ByteEdge> edges);
  StateId Byte(uint8_t byte, StateId next) { return Bytes({{byte, byte, next}}); }
  StateId Text(absl::string_view text, StateId next);
  StateId Split(std::vector<StateId> alternatives);
  // A state whose alternatives are set later, once.
  StateId Later();
  void Set(StateId later, std::vector<StateId> alternatives);
  // `max` below 0: no limit. `body(next)` builds one copy.
  StateId Repeat(int64_t min, int64_t max, StateId next,
                 const std::function<StateId(StateId)>& body);

  // A rule begins as a state that is set later; its end is Nfa::kReturnState.
  StateId Call(StateId rule, StateId next);

  // False once the automaton is too large; what is built from then on does not count. Loops that build have to ask.
  bool Fits();
  // ResourceExhausted-like InvalidArgument where it was too large, or where a rule calls itself before any byte, or where
  // nothing matches.
  absl::StatusOr<Nfa> Finish(StateId start);

 private:
  StateId Add(Nfa::Kind kind, int32_t begin, int32_t count);
  void SetByteClasses();
  void SetNeeds();
  bool CallsItselfFirst() const;

  Nfa nfa_;
  int64_t work_ = 0;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_CONSTRAINT_NFA_H_
