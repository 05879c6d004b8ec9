// Flattens a scheduled step into the arrays that a model takes.
#ifndef TAUSERVE_SERVER_ENGINE_STEP_INPUTS_H_
#define TAUSERVE_SERVER_ENGINE_STEP_INPUTS_H_

#include <cstdint>
#include <vector>

#include "server/model/model.h"
#include "server/scheduler/scheduler.h"

namespace tauserve {

// The arrays are kept from step to step.
class StepInputs {
 public:
  // The logit rows of an entry, in order of positions: so many that log-probabilities of its prompt need, from the first
  // unknown one on, then, if a token is to be sampled, one behind its last token.
  struct Rows {
    int64_t first = 0;
    int32_t of_prompt = 0;
    bool to_sample = false;
  };

  // Logits are asked for after the last token of every sequence that this step completes, as its request's sampling
  // needs them, and before that for what log-probabilities of its prompt need; in order of entries.
  StepInput Build(const Scheduler::Step& step);
  // Of the last step's entries.
  const std::vector<Rows>& rows() const { return rows_; }

 private:
  std::vector<int32_t> tokens_;
  std::vector<SequenceSlice> slices_;
  std::vector<int32_t> logit_rows_;
  std::vector<LogitsQuery> queries_;
  std::vector<Rows> rows_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_ENGINE_STEP_INPUTS_H_
