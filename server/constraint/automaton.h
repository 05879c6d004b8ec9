// An Nfa, followed by sets of states. A set is made when a text first leads to it, and kept with where each byte leads
// and with its mask of tokens, up to a limit of memory: then all are forgotten and made again as they are met. Not
// thread-safe.
#ifndef TAUSERVE_SERVER_CONSTRAINT_AUTOMATON_H_
#define TAUSERVE_SERVER_CONSTRAINT_AUTOMATON_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/constraint/nfa.h"
#include "server/constraint/token_trie.h"

namespace tauserve {

// Bit t % 64 of word t / 64 tells whether token t is allowed.
using TokenMask = std::vector<uint64_t>;

class Automaton {
 public:
  // `max_bytes` of sets; one is always kept.
  Automaton(Nfa nfa, int32_t vocab_size, int64_t max_bytes);

  struct Set;
  // Where a text has led. Survives that the automaton forgets its sets.
  class Place;

  Place Start();
  // What `bytes` lead to; a null place where no text that matches goes on with them.
  Place Follow(const Place& from, absl::string_view bytes);
  // The tokens of `trie` after which the text can still become one that matches; valid until the next call. There are two
  // tries: `first` tells which one this is. InvalidArgument where too many states take part.
  absl::StatusOr<const TokenMask*> Mask(Place& place, const TokenTrie& trie, bool first);

  // The text so far matches.
  static bool Complete(const Place& place);
  // ... and no longer one that begins with it does.
  static bool Final(const Place& place);

  int64_t bytes() const {
    return nfa_.bytes() + static_cast<int64_t>(seen_.size() * sizeof(seen_[0])) + memory_bytes_;
  }
  int64_t sets_made() const { return sets_made_; }

 private:
  // An open call: where it returns to, and the calls around it. Equal ones are the same object.
  struct Frame {
    const Frame* around;
    StateId next;
    int32_t depth;
  };
  struct Item {
    StateId state;
    const Frame* frame;  // null outside of all calls
    bool operator==(const Item& o) const { return state == o.state && frame == o.frame; }
    bool operator<(const Item& o) const {
      return state != o.state ? state < o.state : std::less<const Frame*>()(frame, o.frame);
    }
    template <typename H>
    friend H AbslHashValue(H h, const Item& i) {
      return H::combine(std::move(h), i.state, i.frame);
    }
  };
  struct ItemsHash {
    size_t operator()(const std::unique_ptr<Set>& set) const;
  };
  struct ItemsEqual {
    bool operator()(const std::unique_ptr<Set>& a, const std::unique_ptr<Set>& b) const;
  };
  // All that is forgotten at once.
  struct Memory {
    std::deque<Frame> frames;
    absl::flat_hash_map<std::pair<const Frame*, StateId>, const Frame*> frame_of;
    absl::flat_hash_set<std::unique_ptr<Set>, ItemsHash, ItemsEqual> sets;
  };

  Set* Step(Set& from, uint8_t byte_class);
  Set* Make(std::vector<Item> reached);  // sorted here
  void Reach(Item item);                 // adds to reached_ what follows without a byte
  const Frame* FrameOf(const Frame* around, StateId next);
  const Frame* Moved(const Frame* frame);
  void Renew(Place& place);  // into memory_, if it is from an earlier one
  void ForgetIfFull(Place& place);
  absl::Status Walk(Set* set, const TokenTrie& trie, TokenMask& mask);

  const Nfa nfa_;
  const int32_t vocab_size_;
  const int64_t max_bytes_;
  std::shared_ptr<Memory> memory_;
  int64_t memory_bytes_ = 0;
  int64_t sets_made_ = 0;
  int64_t work_ = 0;  // items made

  std::vector<Item> reached_;  // workspace of Reach, with what it has seen
  bool reached_end_ = false;
  std::vector<Item> todo_;
  std::vector<std::pair<uint32_t, const Frame*>> seen_;
  absl::flat_hash_set<Item> seen_too_;  // of states that are reached with several frames
  uint32_t turn_ = 0;
  std::vector<Set*> path_;  // workspace of Walk
};

class Automaton::Place {
 public:
  Place() = default;
  explicit operator bool() const { return set_ != nullptr; }

 private:
  friend class Automaton;
  Place(std::shared_ptr<Memory> memory, Set* set) : memory_(std::move(memory)), set_(set) {}
  std::shared_ptr<Memory> memory_;
  Set* set_ = nullptr;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_CONSTRAINT_AUTOMATON_H_
