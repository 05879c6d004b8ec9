#include "server/constraint/automaton.h"

#include <algorithm>

#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace tauserve {
namespace {

// What one mask may take, in items of some 50 ns: a few milliseconds. Masks of ordinary constraints take hundredths.
constexpr int64_t kMaxWorkOfMask = 1 << 16;
constexpr int64_t kWorkOfSet = 16;

}  // namespace

struct Automaton::Set {
  std::vector<Item> items;  // those that wait for a byte; sorted
  bool complete = false;
  std::vector<Set*> next;  // by byte class; null: not known yet. Empty until one is.
  TokenMask masks[2];      // of later tokens, of first ones; empty: not known yet

  // What bytes lead to that nothing that matches goes on with.
  static Set* Dead() {
    static Set dead;
    return &dead;
  }
};

size_t Automaton::ItemsHash::operator()(const std::unique_ptr<Set>& set) const {
  return absl::HashOf(set->items, set->complete);
}

bool Automaton::ItemsEqual::operator()(const std::unique_ptr<Set>& a,
                                       const std::unique_ptr<Set>& b) const {
  return a->complete == b->complete && a->items == b->items;
}

Automaton::Automaton(Nfa nfa, int32_t vocab_size, int64_t max_bytes)
    : nfa_(std::move(nfa)),
      vocab_size_(vocab_size),
      max_bytes_(max_bytes),
      memory_(std::make_shared<Memory>()),
      seen_(nfa_.states.size(), {0, nullptr}) {}

Automaton::Place Automaton::Start() {
  turn_++;
  reached_.clear();
  Reach({nfa_.start, nullptr});
  return Place(memory_, Make(reached_));
}

bool Automaton::Complete(const Place& place) { return place.set_->complete; }
bool Automaton::Final(const Place& place) { return Complete(place) && place.set_->items.empty(); }

const Automaton::Frame* Automaton::FrameOf(const Frame* around, StateId next) {
  const auto [it, fresh] = memory_->frame_of.try_emplace({around, next}, nullptr);
  if (fresh) {
    memory_->frames.push_back({around, next, around == nullptr ? 1 : around->depth + 1});
    it->second = &memory_->frames.back();
    memory_bytes_ += sizeof(Frame) + 48;
  }
  return it->second;
}

void Automaton::Reach(Item item) {
  todo_.push_back(item);
  while (!todo_.empty()) {
    const auto [s, frame] = todo_.back();
    todo_.pop_back();
    const int depth = frame == nullptr ? 0 : frame->depth;
    if (nfa_.need[s] == Nfa::kNever || depth + nfa_.need[s] > kMaxCallDepth) continue;
    auto& [turn, seen_frame] = seen_[s];
    if (turn == turn_) {
      if (seen_frame == frame || !seen_too_.insert({s, frame}).second) continue;
    } else {
      turn = turn_;
      seen_frame = frame;
    }
    work_++;
    const Nfa::State& state = nfa_.states[s];
    switch (state.kind) {
      case Nfa::Kind::kBytes:
        reached_.push_back({s, frame});
        break;
      case Nfa::Kind::kSplit:
        for (int32_t i = 0; i < state.count; i++) {
          todo_.push_back({nfa_.targets[state.begin + i], frame});
        }
        break;
      case Nfa::Kind::kCall:
        todo_.push_back({nfa_.targets[state.begin], FrameOf(frame, nfa_.targets[state.begin + 1])});
        break;
      case Nfa::Kind::kReturn:
        if (frame == nullptr) {
          reached_end_ = true;
        } else {
          todo_.push_back({frame->next, frame->around});
        }
        break;
    }
  }
}

Automaton::Set* Automaton::Make(std::vector<Item> reached) {
  seen_too_.clear();
  auto set = std::make_unique<Set>();
  set->complete = std::exchange(reached_end_, false);
  if (reached.empty() && !set->complete) return Set::Dead();
  std::sort(reached.begin(), reached.end());
  set->items = std::move(reached);
  const auto [it, fresh] = memory_->sets.insert(std::move(set));
  if (fresh) {
    sets_made_++;
    memory_bytes_ += static_cast<int64_t>(sizeof(Set) + (*it)->items.capacity() * sizeof(Item));
  }
  return it->get();
}

Automaton::Set* Automaton::Step(Set& from, uint8_t byte_class) {
  if (from.next.empty()) {
    from.next.resize(nfa_.class_byte.size(), nullptr);
    memory_bytes_ += static_cast<int64_t>(from.next.size() * sizeof(Set*));
  }
  if (from.next[byte_class] != nullptr) return from.next[byte_class];
  turn_++;
  reached_.clear();
  work_ += kWorkOfSet;
  const uint8_t byte = nfa_.class_byte[byte_class];
  for (const Item& item : from.items) {
    const Nfa::State& state = nfa_.states[item.state];
    for (int32_t i = state.begin; i < state.begin + state.count; i++) {
      const ByteEdge& e = nfa_.edges[i];
      if (e.lo <= byte && byte <= e.hi) Reach({e.to, item.frame});
    }
    work_ += 1 + state.count / 8;
  }
  return from.next[byte_class] = Make(reached_);
}

Automaton::Place Automaton::Follow(const Place& from, absl::string_view bytes) {
  Place place = from;
  ForgetIfFull(place);
  Set* set = place.set_;
  for (const char byte : bytes) {
    set = Step(*set, nfa_.byte_class[static_cast<uint8_t>(byte)]);
    if (set == Set::Dead()) return Place();
  }
  return Place(memory_, set);
}

absl::StatusOr<const TokenMask*> Automaton::Mask(Place& place, const TokenTrie& trie, bool first) {
  ForgetIfFull(place);
  TokenMask& mask = place.set_->masks[first];
  if (!mask.empty()) return &mask;
  TokenMask made((vocab_size_ + 63) / 64, 0);
  if (absl::Status s = Walk(place.set_, trie, made); !s.ok()) return s;
  memory_bytes_ += static_cast<int64_t>(made.capacity() * sizeof(uint64_t));
  mask = std::move(made);
  return &mask;
}

absl::Status Automaton::Walk(Set* set, const TokenTrie& trie, TokenMask& mask) {
  const absl::Span<const TokenTrie::Node> nodes = trie.nodes();
  const absl::Span<const int32_t> tokens = trie.tokens();
  path_.resize(trie.max_depth() + 1);
  path_[0] = set;
  work_ = 0;
  for (int32_t i = 0; i < static_cast<int32_t>(nodes.size());) {
    const TokenTrie::Node& node = nodes[i];
    Set* const before = path_[node.depth - 1];
    const uint8_t byte_class = nfa_.byte_class[node.byte];
    Set* after = before->next.empty() ? nullptr : before->next[byte_class];
    if (after == nullptr) {
      after = Step(*before, byte_class);
      if (work_ > kMaxWorkOfMask) {
        return absl::InvalidArgumentError(
            absl::StrCat("the constraint is too ambiguous here: the mask of the next token takes "
                         "more than ",
                         kMaxWorkOfMask, " steps"));
      }
    }
    if (after == Set::Dead()) {
      i = node.end;
      continue;
    }
    path_[node.depth] = after;
    for (int32_t t = i == 0 ? 0 : nodes[i - 1].last_token; t < node.last_token; t++) {
      mask[tokens[t] / 64] |= uint64_t{1} << (tokens[t] % 64);
    }
    i++;
  }
  return absl::OkStatus();
}

void Automaton::ForgetIfFull(Place& place) {
  TAUSERVE_CHECK(place, "a place that no text leads to");
  if (memory_bytes_ > max_bytes_) {
    memory_ = std::make_shared<Memory>();
    memory_bytes_ = 0;
  }
  Renew(place);
}

void Automaton::Renew(Place& place) {
  if (place.memory_ == memory_) return;
  std::vector<Item> items = place.set_->items;
  for (Item& item : items) item.frame = Moved(item.frame);
  reached_end_ = place.set_->complete;
  place = Place(memory_, Make(std::move(items)));
}

const Automaton::Frame* Automaton::Moved(const Frame* frame) {
  return frame == nullptr ? nullptr : FrameOf(Moved(frame->around), frame->next);
}

}  // namespace tauserve
