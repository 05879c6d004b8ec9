#include "server/sampling/logprobs.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace tauserve {
namespace {

// Of the token at `place`. `logits` are those of all tokens that can rank before it or among the best, in ascending
// order of tokens.
template <typename TokenOf>
TokenLogprob RankedLogprob(absl::Span<const float> logits, const TokenOf& token_of, size_t place,
                           double log_sum, int32_t top_n) {
  TokenLogprob result;
  result.token = token_of(place);
  result.logprob = static_cast<float>(logits[place] - log_sum);
  result.rank = 1;
  auto before = [&](size_t a, size_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  };
  std::vector<size_t> top;  // a heap with the least probable of the best on top
  for (size_t i = 0; i < logits.size(); i++) {
    result.rank += before(i, place);
    if (static_cast<int32_t>(top.size()) < top_n) {
      top.push_back(i);
      std::push_heap(top.begin(), top.end(), before);
    } else if (top_n > 0 && before(i, top.front())) {
      std::pop_heap(top.begin(), top.end(), before);
      top.back() = i;
      std::push_heap(top.begin(), top.end(), before);
    }
  }
  std::sort_heap(top.begin(), top.end(), before);
  for (size_t i : top) {
    result.top.emplace_back(token_of(i), static_cast<float>(logits[i] - log_sum));
  }
  return result;
}

}  // namespace

TokenLogprob LogprobOf(absl::Span<const float> logits, int32_t token, int32_t top_n) {
  const float max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - max);
  const auto token_of = [](size_t place) { return static_cast<int32_t>(place); };
  return RankedLogprob(logits, token_of, token, max + std::log(sum), top_n);
}

std::optional<TokenLogprob> LogprobOf(const TopLogits& top, int32_t token, int32_t top_n) {
  const absl::Span<const int32_t> tokens(top.tokens, top.count);
  const auto at = std::lower_bound(tokens.begin(), tokens.end(), token);
  if (at == tokens.end() || *at != token || top.count < top_n) return std::nullopt;
  const absl::Span<const float> logits(top.logits, top.count);
  const auto token_of = [&](size_t place) { return tokens[place]; };
  return RankedLogprob(logits, token_of, at - tokens.begin(), top.max + std::log(top.unit_sum),
                       top_n);
}

}  // namespace tauserve
