// Byte-pair encoding of one word: the merges of lowest rank first, of equal ones the leftmost (Sennrich et al. 2016).
#ifndef TAUSERVE_SERVER_MODEL_TOKENIZER_BPE_H_
#define TAUSERVE_SERVER_MODEL_TOKENIZER_BPE_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace tauserve {

class BpeMerges {
 public:
  // `rank`-th merge: `left` and `right` become `merged`.
  void Add(int32_t left, int32_t right, int32_t rank, int32_t merged) {
    merges_.try_emplace({left, right}, Merge{rank, merged});
  }

  // Merges the symbols of a word in place; O(n log n).
  void Apply(std::vector<int32_t>& symbols) const;

 private:
  struct Merge {
    int32_t rank;
    int32_t merged;
  };
  absl::flat_hash_map<std::pair<int32_t, int32_t>, Merge> merges_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_MODEL_TOKENIZER_BPE_H_
