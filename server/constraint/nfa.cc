#include "server/constraint/nfa.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tauserve {
namespace {

// A state takes some 60 bytes with its edges; building this many takes some 20 ms.
constexpr int64_t kMaxStates = 1 << 17;
constexpr int64_t kMaxEdges = 4 * kMaxStates;
constexpr int64_t kMaxWork = 8 * kMaxStates;  // of parts that make no state, too

}  // namespace

int64_t Nfa::bytes() const {
  return static_cast<int64_t>(states.capacity() * sizeof(State) +
                              edges.capacity() * sizeof(ByteEdge) +
                              targets.capacity() * sizeof(StateId) + need.capacity());
}

NfaBuilder::NfaBuilder() { Add(Nfa::Kind::kReturn, 0, 0); }

bool NfaBuilder::Fits() {
  return ++work_ <= kMaxWork && static_cast<int64_t>(nfa_.states.size()) <= kMaxStates &&
         static_cast<int64_t>(nfa_.edges.size() + nfa_.targets.size()) <= kMaxEdges;
}

StateId NfaBuilder::Add(Nfa::Kind kind, int32_t begin, int32_t count) {
  if (!Fits()) return Nfa::kReturnState;
  nfa_.states.push_back({kind, begin, count});
  return static_cast<StateId>(nfa_.states.size()) - 1;
}

StateId NfaBuilder::Bytes(std::vector<ByteEdge> edges) {
  const auto begin = static_cast<int32_t>(nfa_.edges.size());
  if (Fits()) nfa_.edges.insert(nfa_.edges.end(), edges.begin(), edges.end());
  return Add(Nfa::Kind::kBytes, begin, static_cast<int32_t>(edges.size()));
}

StateId NfaBuilder::Text(absl::string_view text, StateId next) {
  for (size_t i = text.size(); i-- > 0 && Fits();) next = Byte(static_cast<uint8_t>(text[i]), next);
  return next;
}

StateId NfaBuilder::Split(std::vector<StateId> alternatives) {
  if (alternatives.size() == 1) return alternatives[0];
  const StateId state = Later();
  Set(state, std::move(alternatives));
  return state;
}

StateId NfaBuilder::Later() { return Add(Nfa::Kind::kSplit, 0, 0); }

void NfaBuilder::Set(StateId later, std::vector<StateId> alternatives) {
  if (later == Nfa::kReturnState || !Fits()) return;
  nfa_.states[later].begin = static_cast<int32_t>(nfa_.targets.size());
  nfa_.states[later].count = static_cast<int32_t>(alternatives.size());
  nfa_.targets.insert(nfa_.targets.end(), alternatives.begin(), alternatives.end());
}

StateId NfaBuilder::Repeat(int64_t min, int64_t max, StateId next,
                           const std::function<StateId(StateId)>& body) {
  StateId state = next;
  if (max < 0) {
    state = Later();
    Set(state, {body(state), next});
  } else {
    for (int64_t i = min; i < max && Fits(); i++) state = Split({body(state), next});
  }
  for (int64_t i = 0; i < min && Fits(); i++) state = body(state);
  return state;
}

StateId NfaBuilder::Call(StateId rule, StateId next) {
  const auto begin = static_cast<int32_t>(nfa_.targets.size());
  if (Fits()) nfa_.targets.insert(nfa_.targets.end(), {rule, next});
  return Add(Nfa::Kind::kCall, begin, 2);
}

absl::StatusOr<Nfa> NfaBuilder::Finish(StateId start) {
  if (!Fits()) {
    return absl::InvalidArgumentError(
        absl::StrCat("is too large: its automaton has more than ", kMaxStates,
                     " states; fewer or smaller repetitions make it smaller"));
  }
  nfa_.start = start;
  SetByteClasses();
  SetNeeds();
  if (nfa_.need[start] == Nfa::kNever) {
    return absl::InvalidArgumentError(absl::StrCat(
        "matches nothing, or nothing that is nested at most ", kMaxCallDepth, " levels deep"));
  }
  if (CallsItselfFirst()) {
    return absl::InvalidArgumentError("has a $ref that leads to itself without a value between");
  }
  return std::move(nfa_);
}

void NfaBuilder::SetByteClasses() {
  std::array<bool, 257> begins{};
  for (const ByteEdge& e : nfa_.edges) begins[e.lo] = begins[e.hi + 1] = true;
  for (int b = 0; b < 256; b++) {
    if (b == 0 || begins[b]) nfa_.class_byte.push_back(static_cast<uint8_t>(b));
    nfa_.byte_class[b] = static_cast<uint8_t>(nfa_.class_byte.size() - 1);
  }
}

// Round d finds the states that need d calls: backwards from the ends, over calls of rules that need fewer.
void NfaBuilder::SetNeeds() {
  const auto num_states = static_cast<int32_t>(nfa_.states.size());
  std::vector<int32_t> first(num_states + 1, 0);
  std::vector<StateId> before;
  const auto for_each_edge = [&](const auto& found) {
    for (StateId s = 0; s < num_states; s++) {
      const Nfa::State& state = nfa_.states[s];
      for (int32_t i = state.begin; i < state.begin + state.count; i++) {
        if (state.kind == Nfa::Kind::kBytes) {
          found(s, nfa_.edges[i].to);
        } else if (state.kind == Nfa::Kind::kSplit || i > state.begin) {
          found(s, nfa_.targets[i]);
        }
      }
    }
  };
  for_each_edge([&](StateId, StateId to) { first[to + 1]++; });
  for (StateId s = 0; s < num_states; s++) first[s + 1] += first[s];
  before.resize(first[num_states]);
  std::vector<int32_t> place(first.begin(), first.end() - 1);
  for_each_edge([&](StateId from, StateId to) { before[place[to]++] = from; });

  nfa_.need.assign(num_states, Nfa::kNever);
  std::vector<StateId> calls;
  for (StateId s = 0; s < num_states; s++) {
    if (nfa_.states[s].kind == Nfa::Kind::kCall) calls.push_back(s);
  }
  std::vector<StateId> found = {Nfa::kReturnState};
  for (int depth = 0; depth <= kMaxCallDepth && !found.empty(); depth++) {
    for (StateId s : found) nfa_.need[s] = static_cast<uint8_t>(depth);
    const auto callable = [&](StateId s) {
      return nfa_.need[nfa_.targets[nfa_.states[s].begin]] < depth;
    };
    while (!found.empty()) {
      const StateId to = found.back();
      found.pop_back();
      for (int32_t i = first[to]; i < first[to + 1]; i++) {
        const StateId s = before[i];
        if (nfa_.need[s] != Nfa::kNever) continue;
        if (nfa_.states[s].kind == Nfa::Kind::kCall && !callable(s)) continue;
        nfa_.need[s] = static_cast<uint8_t>(depth);
        found.push_back(s);
      }
    }
    for (StateId s : calls) {
      const StateId* rule_and_next = &nfa_.targets[nfa_.states[s].begin];
      if (nfa_.need[s] == Nfa::kNever && nfa_.need[rule_and_next[0]] <= depth &&
          nfa_.need[rule_and_next[1]] != Nfa::kNever) {
        found.push_back(s);
      }
    }
  }
}

// A cycle of states that are reached from each other without a byte and by a call at least once.
bool NfaBuilder::CallsItselfFirst() const {
  enum : uint8_t { kNew, kOpen, kDone };
  std::vector<StateId> rules;  // their starts; each is visited from the others' calls
  for (const Nfa::State& state : nfa_.states) {
    if (state.kind == Nfa::Kind::kCall) rules.push_back(nfa_.targets[state.begin]);
  }
  std::sort(rules.begin(), rules.end());
  rules.erase(std::unique(rules.begin(), rules.end()), rules.end());
  const auto index = [&](StateId rule) {
    return std::lower_bound(rules.begin(), rules.end(), rule) - rules.begin();
  };
  std::vector<std::vector<int32_t>> calls(rules.size());
  std::vector<int32_t> seen(nfa_.states.size(), -1);
  for (size_t r = 0; r < rules.size(); r++) {
    std::vector<StateId> todo = {rules[r]};
    while (!todo.empty()) {
      const StateId s = todo.back();
      todo.pop_back();
      if (std::exchange(seen[s], static_cast<int32_t>(r)) == static_cast<int32_t>(r)) continue;
      const Nfa::State& state = nfa_.states[s];
      if (state.kind == Nfa::Kind::kCall) {
        calls[r].push_back(static_cast<int32_t>(index(nfa_.targets[state.begin])));
      } else if (state.kind == Nfa::Kind::kSplit) {
        todo.insert(todo.end(), nfa_.targets.begin() + state.begin,
                    nfa_.targets.begin() + state.begin + state.count);
      }
    }
  }
  std::vector<uint8_t> color(rules.size(), kNew);
  for (size_t r = 0; r < rules.size(); r++) {
    std::vector<std::pair<int32_t, size_t>> path;
    if (color[r] == kNew) path.emplace_back(static_cast<int32_t>(r), 0);
    if (color[r] == kNew) color[r] = kOpen;
    while (!path.empty()) {
      auto& [rule, next] = path.back();
      if (next == calls[rule].size()) {
        color[rule] = kDone;
        path.pop_back();
        continue;
      }
      const int32_t callee = calls[rule][next++];
      if (color[callee] == kOpen) return true;
      if (color[callee] == kNew) {
        color[callee] = kOpen;
        path.emplace_back(callee, 0);
      }
    }
  }
  return false;
}

}  // namespace tauserve
