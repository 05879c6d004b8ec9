#include "server/engine/step_inputs.h"

#include <algorithm>

#include "server/sampling/logits_query.h"

namespace tauserve {

StepInput StepInputs::Build(const Scheduler::Step& step) {
  tokens_.clear();
  slices_.clear();
  logit_rows_.clear();
  queries_.clear();
  rows_.clear();
  for (const Scheduler::Entry& entry : step.entries) {
    const Sequence& s = *entry.sequence;
    SequenceSlice slice;
    slice.first_row = static_cast<int>(tokens_.size());
    slice.num_tokens = entry.num_tokens;
    slice.context_tokens = s.computed();
    slice.pages = s.page_table();
    slices_.push_back(slice);
    const auto tokens = s.tokens().subspan(s.computed(), entry.num_tokens);
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
    Rows rows;
    rows.first = static_cast<int64_t>(logit_rows_.size());
    if (s.scores_prompt()) {
      // The logits of position p tell of token p + 1. After a preemption the first ones are known.
      const int32_t end = std::min(s.computed() + entry.num_tokens, s.prompt_tokens() - 1);
      for (int32_t p = std::max({s.computed(), s.scored() - 1, 0}); p < end; p++) {
        logit_rows_.push_back(slice.first_row + p - s.computed());
        queries_.push_back(PromptLogprobsQuery());
        rows.of_prompt++;
      }
    }
    if (entry.num_tokens == s.remaining()) {
      logit_rows_.push_back(static_cast<int32_t>(tokens_.size()) - 1);
      queries_.push_back(QueryFor(s.request().sampling, s.request().output));
      rows.to_sample = true;
    }
    rows_.push_back(rows);
  }
  return {tokens_, slices_, logit_rows_, queries_, step.copies};
}

}  // namespace tauserve
