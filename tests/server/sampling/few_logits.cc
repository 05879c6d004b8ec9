#include "tests/server/sampling/few_logits.h"

#include <algorithm>
#include <functional>
#include <vector>

namespace tauserve {

void FindFewLogits(absl::Span<const float> row, const LogitsQuery& query, int most,
                   TopLogits* top) {
  FindTopLogits(row, query, top);
  if (top->count <= most) return;
  std::vector<float> ranked(top->logits, top->logits + top->count);
  std::nth_element(ranked.begin(), ranked.begin() + most, ranked.end(), std::greater<float>());
  top->bound = ranked[most];
  int kept = 0;
  for (int i = 0; i < top->count; i++) {
    if (top->logits[i] <= top->bound) continue;
    top->tokens[kept] = top->tokens[i];
    top->logits[kept++] = top->logits[i];
  }
  top->count = kept;
}

}  // namespace tauserve
