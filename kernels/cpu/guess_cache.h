// Keys that the last query rows of a prefilled chunk supported: where the next chunk's rows look first. Kept by the page
// that ends the chunk, since whoever goes on from there goes on with the same sequence. An order of search and nothing
// more: without a guess, or with a wrong one, results are the same up to rounding.
#ifndef TAUSERVE_KERNELS_CPU_GUESS_CACHE_H_
#define TAUSERVE_KERNELS_CPU_GUESS_CACHE_H_

#include <cstdint>
#include <deque>
#include <vector>

#include "kernels/attention.h"

namespace tauserve::cpu {

struct SequenceGuess {
  PageId last_page = -1;
  int tokens = 0;                           // of the sequence, when it was made
  std::vector<std::vector<int32_t>> heads;  // [layers * num_heads]; empty where nothing is known

  // The keys of a head; grows with the layers.
  std::vector<int32_t>& head(int layer, int num_heads, int head);
};

class GuessCache {
 public:
  // What was kept of the sequence with so many tokens, the last one in that page; empty if nothing was.
  SequenceGuess Take(PageId last_page, int tokens);
  // The oldest are dropped where there are many.
  void Put(SequenceGuess guess);

 private:
  std::deque<SequenceGuess> guesses_;
};

}  // namespace tauserve::cpu

#endif  // TAUSERVE_KERNELS_CPU_GUESS_CACHE_H_
