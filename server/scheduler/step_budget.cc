#include "server/scheduler/step_budget.h"

#include <algorithm>

namespace tauserve {

int32_t StepBudget::Tokens(bool decoding, int32_t prompts) const {
  const absl::Duration zero = absl::ZeroDuration();
  if (!decoding || target_ <= zero || each_ <= zero) return max_tokens_;
  // Where steps without prompts miss the target, too, prompts may make them half as long again.
  const double fitting = absl::FDivDuration(std::max(target_ - base_, base_ / 2), each_);
  if (fitting >= max_tokens_) return max_tokens_;
  const int32_t fewest = std::min(prompts > 1 ? kFewestShared : kFewestTokens, max_tokens_);
  return std::max(static_cast<int32_t>(fitting), fewest);
}

// Slower steps count at once, faster ones by halves: a target missed hurts more than one kept too well.
void StepBudget::Done(int32_t prefill_tokens, absl::Duration duration) {
  if (prefill_tokens == 0) {
    base_ = base_ == absl::ZeroDuration() ? duration : (base_ + duration) / 2;
    return;
  }
  // What a few tokens take says nothing of many.
  if (prefill_tokens < std::min(kFewestTokens, max_tokens_)) return;
  const absl::Duration each = std::max(duration - base_, duration / 8) / prefill_tokens;
  each_ = std::max(each, (each_ + each) / 2);
}

}  // namespace tauserve
