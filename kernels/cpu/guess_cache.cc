#include "kernels/cpu/guess_cache.h"

#include <algorithm>
#include <utility>

namespace tauserve::cpu {

std::vector<int32_t>& SequenceGuess::head(int layer, int num_heads, int head) {
  const size_t index = size_t(layer) * num_heads + head;
  if (heads.size() <= index) heads.resize(size_t(layer + 1) * num_heads);
  return heads[index];
}

SequenceGuess GuessCache::Take(PageId last_page, int tokens) {
  const auto it = std::find_if(guesses_.begin(), guesses_.end(), [&](const SequenceGuess& g) {
    return g.last_page == last_page && g.tokens == tokens;
  });
  if (it == guesses_.end()) return {};
  SequenceGuess guess = std::move(*it);
  guesses_.erase(it);
  return guess;
}

void GuessCache::Put(SequenceGuess guess) {
  constexpr size_t kMost = 64;
  if (guesses_.size() == kMost) guesses_.pop_front();
  guesses_.push_back(std::move(guess));
}

}  // namespace tauserve::cpu
