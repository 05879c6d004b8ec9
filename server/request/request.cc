#include "server/request/request.h"

namespace tauserve {

std::vector<int32_t> StoppingParams::EndTokens(const std::vector<int32_t>& eos_token_ids) const {
  std::vector<int32_t> tokens = stop_token_ids;
  if (!ignore_eos) tokens.insert(tokens.end(), eos_token_ids.begin(), eos_token_ids.end());
  return tokens;
}

const char* NameOf(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEosToken:
      return "eos_token";
    case FinishReason::kStopToken:
      return "stop_token";
    case FinishReason::kStopString:
      return "stop_string";
    case FinishReason::kMaxNewTokens:
      return "max_new_tokens";
    case FinishReason::kContextLimit:
      return "context_limit";
    case FinishReason::kTimeLimit:
      return "time_limit";
    case FinishReason::kAborted:
      return "aborted";
    case FinishReason::kConstraintComplete:
      return "constraint_complete";
  }
  return "unknown";
}

}  // namespace tauserve
