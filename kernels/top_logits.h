// The largest logits of a row, with what must be known of the others, so that a row need not leave its device for a
// token to be chosen from it. server/sampling decides from this; Backend::SelectTopLogits finds it.
#ifndef TAUSERVE_KERNELS_TOP_LOGITS_H_
#define TAUSERVE_KERNELS_TOP_LOGITS_H_

#include <cstdint>

#include "absl/types/span.h"

namespace tauserve {

inline constexpr int kMaxTopLogits = 1024;

// What is wanted of a row of logits.
struct LogitsQuery {
  bool whole = true;      // the row itself, and no TopLogits
  float temperature = 0;  // > 0: TopLogits::sum, at this temperature
  bool unit_sum = false;  // TopLogits::unit_sum
};

struct TopLogits {
  // The first token whose logit is NaN or +infinity, and that logit; -1 where there is none. Where there is one, or no
  // finite logit, count is 0, and of the rest only `max` of the latter, -infinity, is set.
  int32_t first_unusable;
  float unusable_logit;
  float max;
  // The (kMaxTopLogits + 1)-th largest logit, equal ones counted each; -infinity where there are not so many.
  float bound;
  // Where asked for: of exp((logit - max) / temperature) over all tokens, the quotient rounded to float32, and of
  // exp(logit - max). Relative error at most kTopLogitsSumError. The same for the same row, whatever rows are beside it.
  double sum;
  double unit_sum;
  // The tokens whose logit is larger than `bound`, in ascending order. All others' are `bound` or less.
  int32_t count;
  int32_t tokens[kMaxTopLogits];
  float logits[kMaxTopLogits];
};

// Two units in the last place of each float32 exponential, and their sums in groups of four.
inline constexpr double kTopLogitsSumError = 1e-6;

// Plainly, for rows in the host's memory.
void FindTopLogits(absl::Span<const float> row, const LogitsQuery& query, TopLogits* top);

}  // namespace tauserve

#endif  // TAUSERVE_KERNELS_TOP_LOGITS_H_
