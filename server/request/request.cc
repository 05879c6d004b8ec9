#include "server/request/request.h"

namespace tauserve {

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
  }
  return "unknown";
}

}  // namespace tauserve
