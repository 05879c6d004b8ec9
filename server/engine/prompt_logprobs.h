// Log-probabilities of a prompt's tokens, chunk by chunk as the prompt is computed.
#ifndef TAUSERVE_SERVER_ENGINE_PROMPT_LOGPROBS_H_
#define TAUSERVE_SERVER_ENGINE_PROMPT_LOGPROBS_H_

#include <vector>

#include "absl/status/statusor.h"
#include "server/engine/step_inputs.h"
#include "server/model/model.h"
#include "server/request/sequence.h"

namespace tauserve {

// Appends those that the logit rows of a step tell of, and with the first ones an entry without for the prompt's first
// token. The result says what is wrong with the logits, if anything is; an error is the model's.
absl::StatusOr<absl::Status> ScorePrompt(LanguageModel& model, const StepOutput& output,
                                         const StepInputs::Rows& rows, Sequence& sequence,
                                         std::vector<TokenLogprob>* logprobs);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_ENGINE_PROMPT_LOGPROBS_H_
