// What a device would find that keeps fewer of the largest logits than kMaxTopLogits: small rows do for tests then.
#ifndef TAUSERVE_TESTS_SERVER_SAMPLING_FEW_LOGITS_H_
#define TAUSERVE_TESTS_SERVER_SAMPLING_FEW_LOGITS_H_

#include "absl/types/span.h"
#include "kernels/top_logits.h"

namespace tauserve {

// As FindTopLogits with `most` for kMaxTopLogits; at most that.
void FindFewLogits(absl::Span<const float> row, const LogitsQuery& query, int most, TopLogits* top);

}  // namespace tauserve

#endif  // TAUSERVE_TESTS_SERVER_SAMPLING_FEW_LOGITS_H_
