#include "server/sampling/choose_token.h"

#include "server/sampling/logprobs.h"

namespace tauserve {

absl::StatusOr<std::optional<ChosenToken>> ChooseToken(Sampler& sampler,
                                                       const SamplingParams& params,
                                                       const OutputParams& output,
                                                       const SampleInput& input) {
  const bool whole = !input.logits.empty();
  absl::StatusOr<std::optional<int32_t>> token;
  if (whole) {
    token = sampler.Sample(params, input);
  } else {
    token = sampler.SampleTop(params, input);
  }
  if (!token.ok()) return token.status();
  if (!*token) return std::nullopt;
  ChosenToken chosen;
  chosen.token = **token;
  if (output.top_logprobs) {
    if (whole) {
      chosen.logprob = LogprobOf(input.logits, chosen.token, *output.top_logprobs);
    } else {
      chosen.logprob = LogprobOf(*input.top, chosen.token, *output.top_logprobs);
    }
    if (!chosen.logprob) return std::nullopt;
  }
  return chosen;
}

}  // namespace tauserve
