// The tokens that may stand in constrained text, by the bytes that they add to it, as a tree: tokens with a common
// beginning are followed together. Immutable.
#ifndef TAUSERVE_SERVER_CONSTRAINT_TOKEN_TRIE_H_
#define TAUSERVE_SERVER_CONSTRAINT_TOKEN_TRIE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "server/model/tokenizer/tokenizer.h"

namespace tauserve {

class TokenTrie {
 public:
  // A node is a beginning of some tokens. In the order of a walk that sees a node before its children: the children of
  // a node follow it, up to its end.
  struct Node {
    uint8_t byte;   // the last one of the beginning
    int32_t depth;  // bytes of the beginning, from 1
    int32_t end;    // behind the last node below this one
    int32_t
        last_token;  // in tokens(): those of this node end here, and begin where the last node's end
  };

  // Special tokens, and those that add no text, are left out. `first`: as the first token of a text.
  TokenTrie(const Tokenizer& tokenizer, bool first);

  absl::Span<const Node> nodes() const { return nodes_; }
  absl::Span<const int32_t> tokens() const { return tokens_; }
  int32_t max_depth() const { return max_depth_; }

 private:
  std::vector<Node> nodes_;
  std::vector<int32_t> tokens_;
  int32_t max_depth_ = 0;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_CONSTRAINT_TOKEN_TRIE_H_
