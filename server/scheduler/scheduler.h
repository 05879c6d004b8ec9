// Decides what runs in each step: continuous batching with chunked prefill under one token budget. A pure data
// structure: no threads, no clock, no I/O.
//
// Order: a sequence's rank is its arrival, moved by its priority (a unit is worth kPriorityUnit of waiting); so a late
// urgent one overtakes, and none starves. The waiting sequence of the lowest rank is admitted next; nobody overtakes
// one that waits for pages.
//
// Step: every sequence that decodes has its row in every step. Prompts share what is left: short ones whole, the first
// of the long ones half of it at least, others the rest.
//
// Pages: a sequence is admitted when there are pages for all of its known tokens, and a page for every sequence that
// runs to grow by. Where they run out all the same, the running sequence of the highest rank is preempted: it gives its
// pages back and waits, to compute them anew. The one of the lowest rank never is, and each preemption doubles the room
// that a sequence waits for before it runs again, so that all get to their end.
//
// Candidates of a request are sequences of their own that share its prompt: the first computes it, and where it ends the
// others fork, each with a reference to the same pages. Room for all is kept from the first one's admission on. Whoever
// writes to a page that others hold too gets a copy of it first; the last one writes to the page itself. After a
// preemption a candidate is like any other sequence.
//
// Prompts whose log-probabilities are wanted take kMaxScoredTokens of a step together, since each token has a row of
// logits, and no pages from the prefix index until all are known.
#ifndef TAUSERVE_SERVER_SCHEDULER_SCHEDULER_H_
#define TAUSERVE_SERVER_SCHEDULER_SCHEDULER_H_

#include <cstdint>
#include <set>
#include <vector>

#include "absl/time/time.h"
#include "server/cache/page_pool.h"
#include "server/cache/prefix_index.h"
#include "server/request/sequence.h"

namespace tauserve {

struct SchedulerOptions {
  int32_t max_batched_tokens = 2048;  // of a step
  int32_t max_running_requests = 64;  // at most max_batched_tokens of them
};

class Scheduler {
 public:
  static constexpr absl::Duration kPriorityUnit = absl::Seconds(10);
  // A prompt with fewer tokens left takes them in one step, before longer ones get theirs; a share is not smaller.
  static constexpr int32_t kShortTokens = 256;
  static constexpr int32_t kMaxScoredTokens = 128;

  // `index` may be null: no prefix cache. Both must outlive the scheduler.
  Scheduler(const SchedulerOptions& options, PagePool* pool, PrefixIndex* index);

  // To the queue. The sequence must be removed before it is destroyed, and its max_pages() must not exceed the pool's
  // size. `forks`: the other candidates of its request, at most max_running_requests with it; nothing is known of them but
  // the prompt.
  void Add(Sequence* sequence, std::vector<Sequence*> forks = {});
  // Takes a sequence out, whatever its state; its pages are free afterwards, and those that wait to fork from it are out
  // as well. Not between Schedule and Commit.
  void Remove(Sequence* sequence);
  // What the sequence's pages hold may be wrong: requests to come compute it anew. Not between Schedule and Commit.
  void Distrust(Sequence* sequence);

  struct Entry {
    Sequence* sequence;
    int32_t num_tokens;  // to compute: tokens [computed, computed + num_tokens)
  };
  struct Step {
    std::vector<Entry> entries;        // decode rows first, then chunks of prompts
    std::vector<Sequence*> admitted;   // those that run, for the first time or again
    std::vector<Sequence*> preempted;  // those that wait again
    std::vector<PageCopy> copies;  // to be made before it runs; no page is both copied and written
  };
  // What to run now, with at most `prefill_tokens` tokens of prompts; pages for it are in the sequences' page tables.
  // Empty only if there are no sequences. The result stays valid until the next call.
  const Step& Schedule(int32_t prefill_tokens);
  // The last step has run: its tokens are in the cache. Comes before the new tokens are appended. Where a prompt is
  // complete now, its forks run.
  void Commit();

  int32_t num_running() const { return static_cast<int32_t>(running_.size()); }
  int32_t num_decoding() const;
  int32_t num_prompts() const { return num_running() - num_decoding() + num_waiting(); }
  int32_t num_waiting() const { return static_cast<int32_t>(waiting_.size()); }
  int64_t waiting_prompt_tokens() const { return waiting_prompt_tokens_; }

 private:
  struct ByRank {
    bool operator()(const Sequence* a, const Sequence* b) const;
  };
  using Ranked = std::set<Sequence*, ByRank>;

  void Enqueue(Sequence* sequence);
  void Dequeue(Sequence* sequence);
  // Gives its pages back, those promised to it too.
  void StopRunning(Sequence* sequence);
  void PlanDecodes();
  void AdmitWaiting();
  void PlanPrefills(int32_t budget);
  // Known tokens' pages are there, or promised.
  bool Admit(Sequence* sequence);
  // A page for the next token of a sequence that decodes, by preemption if it must be; false: of itself.
  bool GrowByPage(Sequence* sequence);
  // To write its next token.
  bool NeedsPage(const Sequence& sequence) const;
  bool SharesNextPage(const Sequence& sequence) const;
  void Preempt(Sequence* sequence);
  void Plan(Sequence* sequence, int32_t num_tokens);
  PageRef TakeReserved(Sequence* sequence);
  void Fork(Sequence* sequence);
  void IndexFullPages(Sequence* sequence);
  // Sequences that run, and those that will fork from them.
  int32_t rows() const { return num_running() + rows_to_fork_; }
  int64_t unpromised_pages() const { return pool_->free_pages() - reserved_pages_; }

  SchedulerOptions options_;
  PagePool* pool_;
  PrefixIndex* index_;
  Ranked waiting_;
  Ranked running_;
  int64_t waiting_prompt_tokens_ = 0;
  int64_t reserved_pages_ = 0;  // promised to running sequences, not yet allocated
  int32_t rows_to_fork_ = 0;
  uint64_t last_order_ = 0;
  Step step_;
  // The first in the queue, where its pages were refused, and what was known of its prefix then. Looking again makes
  // sense only when pages came back or that prefix has grown; for a long prompt a look costs more than a whole step.
  const Sequence* refused_ = nullptr;
  PrefixIndex::PrefixId refused_prefix_ = PrefixIndex::kRoot;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_SCHEDULER_SCHEDULER_H_
