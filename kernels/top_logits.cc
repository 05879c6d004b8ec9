#include "kernels/top_logits.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

namespace tauserve {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

double SumOfExponentials(absl::Span<const float> row, float max, float temperature) {
  double sum = 0;
  for (float logit : row) sum += std::exp((logit - max) / temperature);
  return sum;
}

float Bound(absl::Span<const float> row) {
  if (row.size() <= kMaxTopLogits) return -kInfinity;
  std::vector<float> ranked(row.begin(), row.end());
  std::nth_element(ranked.begin(), ranked.begin() + kMaxTopLogits, ranked.end(),
                   std::greater<float>());
  return ranked[kMaxTopLogits];
}

}  // namespace

void FindTopLogits(absl::Span<const float> row, const LogitsQuery& query, TopLogits* top) {
  top->first_unusable = -1;
  top->count = 0;
  const auto bad = std::find_if(row.begin(), row.end(), [](float x) { return !(x < kInfinity); });
  if (bad != row.end()) {
    top->first_unusable = static_cast<int32_t>(bad - row.begin());
    top->unusable_logit = *bad;
    return;
  }
  top->max = *std::max_element(row.begin(), row.end());
  if (top->max == -kInfinity) return;
  top->bound = Bound(row);
  if (query.temperature > 0) top->sum = SumOfExponentials(row, top->max, query.temperature);
  if (query.unit_sum) top->unit_sum = SumOfExponentials(row, top->max, 1);
  for (size_t t = 0; t < row.size(); t++) {
    if (row[t] <= top->bound) continue;
    top->tokens[top->count] = static_cast<int32_t>(t);
    top->logits[top->count++] = row[t];
  }
}

}  // namespace tauserve
