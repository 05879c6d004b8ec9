// Log-probabilities of output tokens, as the model gives them before any sampling parameter acts.
#ifndef TAUSERVE_SERVER_SAMPLING_LOGPROBS_H_
#define TAUSERVE_SERVER_SAMPLING_LOGPROBS_H_

#include <cstdint>
#include <optional>

#include "absl/types/span.h"
#include "kernels/top_logits.h"
#include "server/request/request.h"

namespace tauserve {

// Log-probability and rank of `token` and the `top_n` most probable tokens, of the softmax at temperature 1. Equal
// logits rank by id. `logits` hold no NaN and at least one is finite.
TokenLogprob LogprobOf(absl::Span<const float> logits, int32_t token, int32_t top_n);
// The same from the largest logits, which were asked for with unit_sum; nullopt where they don't tell. The device's sum
// is rounded otherwise: log-probabilities differ by up to 1e-6 of a natural unit, and by rounding to float32.
std::optional<TokenLogprob> LogprobOf(const TopLogits& top, int32_t token, int32_t top_n);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_SAMPLING_LOGPROBS_H_
