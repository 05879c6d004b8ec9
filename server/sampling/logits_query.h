// What the choice of a token needs of its row of logits: for most parameters the largest ones are enough.
#ifndef TAUSERVE_SERVER_SAMPLING_LOGITS_QUERY_H_
#define TAUSERVE_SERVER_SAMPLING_LOGITS_QUERY_H_

#include "kernels/top_logits.h"
#include "server/request/request.h"

namespace tauserve {

// False where Sampler::SampleTop has a chance.
bool NeedsWholeRow(const SamplingParams& params);

LogitsQuery QueryFor(const SamplingParams& params, const OutputParams& output);
// For the log-probability of a token that is known, and its alternatives.
LogitsQuery PromptLogprobsQuery();

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_SAMPLING_LOGITS_QUERY_H_
