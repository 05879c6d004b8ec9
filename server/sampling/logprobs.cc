#include "server/sampling/logprobs.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace tauserve {

TokenLogprob LogprobOf(absl::Span<const float> logits, int32_t token, int32_t top_n) {
  TokenLogprob result;
  result.token = token;
  const float max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - max);
  const double log_sum = max + std::log(sum);
  result.logprob = static_cast<float>(logits[token] - log_sum);
  result.rank = 1;
  auto before = [&](int32_t a, int32_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  };
  std::vector<int32_t> top;  // a heap with the least probable of the best on top
  for (size_t t = 0; t < logits.size(); t++) {
    const int32_t id = static_cast<int32_t>(t);
    result.rank += before(id, token);
    if (static_cast<int32_t>(top.size()) < top_n) {
      top.push_back(id);
      std::push_heap(top.begin(), top.end(), before);
    } else if (top_n > 0 && before(id, top.front())) {
      std::pop_heap(top.begin(), top.end(), before);
      top.back() = id;
      std::push_heap(top.begin(), top.end(), before);
    }
  }
  std::sort_heap(top.begin(), top.end(), before);
  for (int32_t id : top) result.top.emplace_back(id, static_cast<float>(logits[id] - log_sum));
  return result;
}

}  // namespace tauserve
