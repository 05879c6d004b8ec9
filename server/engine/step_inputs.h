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
  // Logits are asked for after the last token of every sequence that this step completes, as its request's sampling
  // needs them; in order of entries.
  StepInput Build(const std::vector<Scheduler::Entry>& entries);

 private:
  std::vector<int32_t> tokens_;
  std::vector<SequenceSlice> slices_;
  std::vector<int32_t> logit_rows_;
  std::vector<LogitsQuery> queries_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_ENGINE_STEP_INPUTS_H_
