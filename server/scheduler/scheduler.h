// Decides what runs in each step: continuous batching with chunked prefill under one token budget. A pure data
// structure: no threads, no clock, no I/O. A sequence is admitted only when the pool can give it all the pages it may
// ever need, so one that runs never runs out.
#ifndef TAUSERVE_SERVER_SCHEDULER_SCHEDULER_H_
#define TAUSERVE_SERVER_SCHEDULER_SCHEDULER_H_

#include <cstdint>
#include <deque>
#include <vector>

#include "server/cache/page_pool.h"
#include "server/cache/prefix_index.h"
#include "server/request/sequence.h"

namespace tauserve {

struct SchedulerOptions {
  int32_t max_batched_tokens = 2048;  // of a step
  int32_t max_running_requests = 64;
};

class Scheduler {
 public:
  // `index` may be null: no prefix cache. Both must outlive the scheduler.
  Scheduler(const SchedulerOptions& options, PagePool* pool, PrefixIndex* index);

  // To the end of the queue. The sequence must be removed before it is destroyed, and its max_pages() must not exceed
  // the pool's size.
  void Add(Sequence* sequence);
  // Takes a sequence out, whatever its state; its pages are free afterwards. Not between Schedule and Commit.
  void Remove(Sequence* sequence);

  struct Entry {
    Sequence* sequence;
    int32_t num_tokens;  // to compute: tokens [computed, computed + num_tokens)
  };
  struct Step {
    std::vector<Entry> entries;       // decode rows first, then prompts' chunks
    std::vector<Sequence*> admitted;  // those that run for the first time
  };
  // What to run now; pages for it are in the sequences' page tables. Empty only if there are no sequences. The result
  // stays valid until the next call.
  const Step& Schedule();
  // The last step has run: its tokens are in the cache. Comes before the new tokens are appended.
  void Commit();

  int32_t num_running() const { return static_cast<int32_t>(running_.size()); }
  int32_t num_waiting() const { return static_cast<int32_t>(waiting_.size()); }
  int64_t waiting_prompt_tokens() const { return waiting_prompt_tokens_; }

 private:
  bool Admit(Sequence* sequence);
  void Plan(Sequence* sequence, int32_t num_tokens);
  void IndexFullPages(Sequence* sequence);

  SchedulerOptions options_;
  PagePool* pool_;
  PrefixIndex* index_;
  std::deque<Sequence*> waiting_;
  std::vector<Sequence*> running_;  // in order of admission
  int64_t waiting_prompt_tokens_ = 0;
  int64_t reserved_pages_ = 0;  // promised to running sequences, not yet allocated
  Step step_;
  // The first in the queue, where its pages were refused, and what was known of its prefix then. Looking again makes
  // sense only when pages came back or that prefix has grown; for a long prompt a look costs more than a whole step.
  const Sequence* refused_ = nullptr;
  PrefixIndex::PrefixId refused_prefix_ = PrefixIndex::kRoot;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_SCHEDULER_SCHEDULER_H_
