#include "server/engine/step_inputs.h"

#include "server/sampling/logits_query.h"

namespace tauserve {

StepInput StepInputs::Build(const std::vector<Scheduler::Entry>& entries) {
  tokens_.clear();
  slices_.clear();
  logit_rows_.clear();
  queries_.clear();
  for (const Scheduler::Entry& entry : entries) {
    const Sequence& s = *entry.sequence;
    SequenceSlice slice;
    slice.first_row = static_cast<int>(tokens_.size());
    slice.num_tokens = entry.num_tokens;
    slice.context_tokens = s.computed();
    slice.pages = s.page_table();
    slices_.push_back(slice);
    const auto tokens = s.tokens().subspan(s.computed(), entry.num_tokens);
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
    if (entry.num_tokens == s.remaining()) {
      logit_rows_.push_back(static_cast<int32_t>(tokens_.size()) - 1);
      queries_.push_back(QueryFor(s.request().sampling, s.request().output));
    }
  }
  return {tokens_, slices_, logit_rows_, queries_};
}

}  // namespace tauserve
