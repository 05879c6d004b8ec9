#include "server/constraint/token_trie.h"

#include <algorithm>
#include <string>
#include <utility>

namespace tauserve {

TokenTrie::TokenTrie(const Tokenizer& tokenizer, bool first) {
  std::vector<std::pair<std::string, int32_t>> spelled;
  for (int32_t id = 0; id < tokenizer.vocab_size(); id++) {
    if (tokenizer.IsSpecial(id)) continue;
    std::string bytes = tokenizer.TokenBytes(id, first);
    if (!bytes.empty()) spelled.emplace_back(std::move(bytes), id);
  }
  std::sort(spelled.begin(), spelled.end());
  std::vector<int32_t> path;  // nodes of the last token's beginnings
  const std::string* last = nullptr;
  for (const auto& [bytes, id] : spelled) {
    size_t common = 0;
    while (last != nullptr && common < last->size() && common < bytes.size() &&
           (*last)[common] == bytes[common]) {
      common++;
    }
    for (; path.size() > common; path.pop_back()) {
      nodes_[path.back()].end = static_cast<int32_t>(nodes_.size());
    }
    for (size_t i = common; i < bytes.size(); i++) {
      path.push_back(static_cast<int32_t>(nodes_.size()));
      nodes_.push_back({static_cast<uint8_t>(bytes[i]), static_cast<int32_t>(i + 1), 0,
                        static_cast<int32_t>(tokens_.size())});
    }
    // In order of their bytes: a token's node is the last one so far.
    tokens_.push_back(id);
    nodes_.back().last_token = static_cast<int32_t>(tokens_.size());
    max_depth_ = std::max(max_depth_, static_cast<int32_t>(bytes.size()));
    last = &bytes;
  }
  for (int32_t node : path) nodes_[node].end = static_cast<int32_t>(nodes_.size());
}

}  // namespace tauserve
