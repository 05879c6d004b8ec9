// The next token and its log-probability from what a device gave of a row of logits.
#ifndef TAUSERVE_SERVER_SAMPLING_CHOOSE_TOKEN_H_
#define TAUSERVE_SERVER_SAMPLING_CHOOSE_TOKEN_H_

#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "server/request/request.h"
#include "server/sampling/sampler.h"

namespace tauserve {

struct ChosenToken {
  int32_t token = 0;
  std::optional<TokenLogprob> logprob;  // where asked for
};

// From the whole row where `input` has it, else from its largest logits; nullopt where these don't decide. The token is
// the same from either. Errors as Sampler's.
absl::StatusOr<std::optional<ChosenToken>> ChooseToken(Sampler& sampler,
                                                       const SamplingParams& params,
                                                       const OutputParams& output,
                                                       const SampleInput& input);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_SAMPLING_CHOOSE_TOKEN_H_
