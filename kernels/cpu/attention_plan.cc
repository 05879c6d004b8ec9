#include "kernels/cpu/attention_plan.h"

#include <algorithm>

namespace tauserve::cpu {
namespace {

// Blocks follow each other in a task and learn from the one before; but there have to be tasks for all threads.
int TokensOfTask(const SequenceSlice& slice, int block) {
  constexpr int kTasks = 8;  // a head and slice
  const int tokens = std::max(1024, (slice.num_tokens + kTasks - 1) / kTasks);
  return (tokens + block - 1) / block * block;
}

// Keys that the task's rows see, heads with a distance bias at a fraction: they stop after a few pages.
int64_t CostOf(const AttentionSpec& spec, const SequenceSlice& slice, const AttentionTask& task) {
  const int64_t last = slice.context_tokens + task.token_end;
  int64_t keys = last;
  if (spec.sliding_window > 0) {
    keys = std::min<int64_t>(keys, spec.sliding_window + task.token_end - task.token_begin);
  }
  int64_t cost = 0;
  for (int head = task.head_begin; head < task.head_end; head++) {
    const bool near = spec.alpha[head] > 1 && spec.alibi_slope[head] > 0;
    cost += near ? keys / 16 + kPageTokens : keys;
  }
  return cost * (task.token_end - task.token_begin);
}

void AddTask(const AttentionSpec& spec, const SequenceSlice& slice, AttentionTask task,
             std::vector<AttentionTask>& tasks) {
  task.cost = CostOf(spec, slice, task);
  tasks.push_back(task);
}

}  // namespace

void PlanAttention(const AttentionSpec& spec, absl::Span<const SequenceSlice> slices,
                   std::vector<AttentionTask>& tasks) {
  tasks.clear();
  const int group = spec.num_heads / spec.num_kv_heads;
  for (size_t s = 0; s < slices.size(); s++) {
    const SequenceSlice& slice = slices[s];
    AttentionTask task;
    task.slice = &slice;
    task.slice_index = static_cast<int>(s);
    for (task.kv_head = 0; task.kv_head < spec.num_kv_heads; task.kv_head++) {
      const int first = task.kv_head * group, end = first + group;
      if (!IsPrefill(slice)) {
        task.token_begin = 0;
        task.token_end = slice.num_tokens;
        const int most = kGroupRows / slice.num_tokens;
        for (int head = first; head < end; head = task.head_end) {
          task.head_begin = head;
          const bool softmax = spec.alpha[head] == 1;
          task.head_end = head + 1;
          while (task.head_end < end && task.head_end - head < most &&
                 (spec.alpha[task.head_end] == 1) == softmax) {
            task.head_end++;
          }
          AddTask(spec, slice, task, tasks);
        }
        continue;
      }
      for (int head = first; head < end; head++) {
        task.head_begin = head;
        task.head_end = head + 1;
        const int block = spec.alpha[head] == 1 ? kFlashRows : kSearchRows;
        for (task.token_begin = 0; task.token_begin < slice.num_tokens;
             task.token_begin = task.token_end) {
          const int position = slice.context_tokens + task.token_begin;
          const int stretch = TokensOfTask(slice, block);
          task.token_end =
              std::min(slice.num_tokens, task.token_begin + stretch - position % block);
          AddTask(spec, slice, task, tasks);
        }
      }
    }
  }
  std::stable_sort(tasks.begin(), tasks.end(),
                   [](const AttentionTask& a, const AttentionTask& b) { return a.cost > b.cost; });
}

}  // namespace tauserve::cpu
