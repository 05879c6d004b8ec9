// How many tokens of prompts a step may take so that it lasts no longer than a target: others' next tokens wait for it.
// From what steps took of late: those without prompts, and for each token of a prompt on top. A pure data structure.
#ifndef TAUSERVE_SERVER_SCHEDULER_STEP_BUDGET_H_
#define TAUSERVE_SERVER_SCHEDULER_STEP_BUDGET_H_

#include <cstdint>

#include "absl/time/time.h"

namespace tauserve {

class StepBudget {
 public:
  // So that a prompt gets on, however slow its steps are.
  static constexpr int32_t kFewestTokens = 16;
  // Half of it is more than a third of a hundred tokens, so that so short a prompt has its first token within three steps
  // beside a long one, whose tokens take much longer than its own.
  static constexpr int32_t kFewestShared = 96;

  // `target` zero: none.
  StepBudget(int32_t max_tokens, absl::Duration target)
      : max_tokens_(max_tokens), target_(target) {}

  // `decoding`: somebody's next token is in the step. Alone, prompts take all that fits. `prompts`: how many want tokens.
  int32_t Tokens(bool decoding, int32_t prompts) const;
  // A step with so many tokens of prompts took `duration`.
  void Done(int32_t prefill_tokens, absl::Duration duration);

 private:
  int32_t max_tokens_;
  absl::Duration target_;
  absl::Duration base_;  // a step without prompts; zero before the first
  absl::Duration each_;  // token of a prompt; zero before the first
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_SCHEDULER_STEP_BUDGET_H_
