// Splits the attention of a step into tasks for the worker threads, costly ones first.
#ifndef TAUSERVE_KERNELS_CPU_ATTENTION_PLAN_H_
#define TAUSERVE_KERNELS_CPU_ATTENTION_PLAN_H_

#include <vector>

#include "absl/types/span.h"
#include "kernels/cpu/attention_task.h"

namespace tauserve::cpu {

// A slice with few tokens becomes tasks of one KV head's query heads together, so that a page is read once for all of
// them; a longer one, tasks of one query head and a stretch of tokens. How depends on the step alone, not on the threads,
// so that these never change a result. `tasks` is overwritten.
void PlanAttention(const AttentionSpec& spec, absl::Span<const SequenceSlice> slices,
                   std::vector<AttentionTask>& tasks);

}  // namespace tauserve::cpu

#endif  // TAUSERVE_KERNELS_CPU_ATTENTION_PLAN_H_
