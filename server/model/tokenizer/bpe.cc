#include "server/model/tokenizer/bpe.h"

#include <queue>

namespace tauserve {

void BpeMerges::Apply(std::vector<int32_t>& symbols) const {
  struct Node {
    int32_t symbol;  // -1: merged into the one before it
    int32_t previous;
    int32_t next;
  };
  struct Candidate {
    int32_t rank;
    int32_t at;
    int32_t left, right, merged;  // the pair as it was: stale if the nodes have changed
    bool operator<(const Candidate& o) const {  // the queue's top is the largest
      return rank > o.rank || (rank == o.rank && at > o.at);
    }
  };
  const int32_t n = static_cast<int32_t>(symbols.size());
  std::vector<Node> nodes(n);
  std::priority_queue<Candidate> queue;
  auto offer = [&](int32_t at) {
    const int32_t next = at < 0 ? -1 : nodes[at].next;
    if (next < 0) return;
    const auto it = merges_.find({nodes[at].symbol, nodes[next].symbol});
    if (it == merges_.end()) return;
    queue.push({it->second.rank, at, nodes[at].symbol, nodes[next].symbol, it->second.merged});
  };
  for (int32_t i = 0; i < n; i++) nodes[i] = {symbols[i], i - 1, i + 1 < n ? i + 1 : -1};
  for (int32_t i = 0; i + 1 < n; i++) offer(i);
  while (!queue.empty()) {
    const Candidate c = queue.top();
    queue.pop();
    Node& node = nodes[c.at];
    if (node.symbol != c.left || node.next < 0 || nodes[node.next].symbol != c.right) continue;
    nodes[node.next].symbol = -1;
    node.symbol = c.merged;
    node.next = nodes[node.next].next;
    if (node.next >= 0) nodes[node.next].previous = c.at;
    offer(node.previous);
    offer(c.at);
  }
  symbols.clear();
  for (int32_t i = 0; i >= 0 && n > 0; i = nodes[i].next) symbols.push_back(nodes[i].symbol);
}

}  // namespace tauserve
