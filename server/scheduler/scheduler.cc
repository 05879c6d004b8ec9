#include "server/scheduler/scheduler.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "kernels/check.h"

namespace tauserve {
namespace {

int32_t PagesOf(int32_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

absl::Time Rank(const Request& request) {
  return request.arrival + request.priority * Scheduler::kPriorityUnit;
}

// As many tokens, or up to so many fewer that they end with a page, where that leaves some.
int32_t ToPageEnd(int32_t computed, int32_t tokens) {
  const int32_t over = (computed + tokens) % kPageTokens;
  return over < tokens ? tokens - over : tokens;
}

}  // namespace

bool Scheduler::ByRank::operator()(const Sequence* a, const Sequence* b) const {
  const absl::Time rank_a = Rank(a->request()), rank_b = Rank(b->request());
  return rank_a != rank_b ? rank_a < rank_b : a->order_ < b->order_;
}

Scheduler::Scheduler(const SchedulerOptions& options, PagePool* pool, PrefixIndex* index)
    : options_(options), pool_(pool), index_(index) {
  // A row for each.
  options_.max_running_requests =
      std::min(options.max_running_requests, options.max_batched_tokens);
}

void Scheduler::Add(Sequence* sequence, std::vector<Sequence*> forks) {
  TAUSERVE_CHECK(sequence->max_pages() <= pool_->num_pages(), "a sequence larger than the cache");
  TAUSERVE_CHECK(static_cast<int32_t>(forks.size()) < options_.max_running_requests,
                 "more candidates than may run");
  sequence->order_ = ++last_order_;
  for (Sequence* fork : forks) fork->order_ = ++last_order_;
  sequence->forks_ = std::move(forks);
  Enqueue(sequence);
}

void Scheduler::Enqueue(Sequence* sequence) {
  sequence->state_ = Sequence::State::kWaiting;
  waiting_.insert(sequence);
  waiting_prompt_tokens_ += sequence->prompt_tokens();
}

void Scheduler::Dequeue(Sequence* sequence) {
  waiting_.erase(sequence);
  waiting_prompt_tokens_ -= sequence->prompt_tokens();
}

void Scheduler::StopRunning(Sequence* sequence) {
  running_.erase(sequence);
  rows_to_fork_ -= static_cast<int32_t>(sequence->forks_.size());
  reserved_pages_ -= std::exchange(sequence->reserved_pages_, 0);
  sequence->state_ = Sequence::State::kOut;
  sequence->ReleasePages();
  refused_ = nullptr;
}

void Scheduler::Remove(Sequence* sequence) {
  if (sequence->state_ == Sequence::State::kRunning) {
    StopRunning(sequence);
  } else if (sequence->state_ == Sequence::State::kWaiting) {
    Dequeue(sequence);
    sequence->state_ = Sequence::State::kOut;
    refused_ = nullptr;
  }
  sequence->forks_.clear();
}

void Scheduler::Distrust(Sequence* sequence) {
  for (int32_t i = 0; i < sequence->num_pages(); i++) pool_->Forget(sequence->page_table()[i]);
}

const Scheduler::Step& Scheduler::Schedule(int32_t prefill_tokens) {
  step_.entries.clear();
  step_.admitted.clear();
  step_.preempted.clear();
  step_.copies.clear();
  PlanDecodes();
  const int32_t rows = static_cast<int32_t>(step_.entries.size());
  const int32_t budget = std::min(std::max(prefill_tokens, 1), options_.max_batched_tokens - rows);
  if (budget > 0) {
    AdmitWaiting();
    PlanPrefills(budget);
  }
  return step_;
}

void Scheduler::PlanDecodes() {
  // In order of rank: whoever is preempted comes later, and has no row yet.
  for (Sequence* sequence : running_) {
    if (sequence->in_prefill()) continue;
    if (!GrowByPage(sequence)) return;  // it was the last
    Plan(sequence, 1);
  }
}

bool Scheduler::GrowByPage(Sequence* sequence) {
  // A preemption may make a shared page the sequence's own.
  while (NeedsPage(*sequence) && sequence->reserved_pages_ == 0) {
    if (unpromised_pages() > 0) {
      sequence->reserved_pages_ = 1;
      reserved_pages_++;
      break;
    }
    Sequence* last = *std::prev(running_.end());
    Preempt(last);
    if (last == sequence) return false;
  }
  return true;
}

bool Scheduler::NeedsPage(const Sequence& sequence) const {
  return sequence.computed() == sequence.num_pages() * kPageTokens || SharesNextPage(sequence);
}

bool Scheduler::SharesNextPage(const Sequence& sequence) const {
  const int32_t page = sequence.computed() / kPageTokens;
  return page < sequence.num_pages() && pool_->references(sequence.page_table()[page]) > 1;
}

void Scheduler::Preempt(Sequence* sequence) {
  StopRunning(sequence);
  sequence->computed_ = 0;
  sequence->indexed_pages_ = 0;
  sequence->prefix_ = PrefixIndex::kRoot;
  sequence->preemptions_++;
  Enqueue(sequence);
  step_.preempted.push_back(sequence);
}

void Scheduler::AdmitWaiting() {
  // Pages that a step took from a sequence are not for the next one in the queue.
  if (!step_.preempted.empty()) return;
  while (!waiting_.empty()) {
    Sequence* next = *waiting_.begin();
    const int32_t forks = static_cast<int32_t>(next->forks_.size());
    if (rows() + 1 + forks > options_.max_running_requests) return;
    if (next == refused_ || !Admit(next)) return;
    Dequeue(next);
    running_.insert(next);
    step_.admitted.push_back(next);
  }
}

bool Scheduler::Admit(Sequence* sequence) {
  const Request& request = sequence->request();
  PrefixIndex::Match match;
  if (index_ != nullptr && !request.bypass_prefix_cache && !sequence->scores_prompt()) {
    // The last token is computed anew in any case: its logits are needed.
    match = index_->Find(request.cache_salt, sequence->tokens().first(sequence->num_tokens() - 1));
  }
  const int32_t known = PagesOf(sequence->num_tokens());
  // After preemptions it has to have room to grow, more each time.
  const int32_t growth =
      sequence->preemptions_ == 0 ? 0 : 1 << std::min(sequence->preemptions_, 24);
  const int32_t missing =
      std::min(known + growth, sequence->max_pages()) - static_cast<int32_t>(match.pages.size());
  // Alone it runs in any case; beside others, everyone can grow by a page.
  const int32_t forks = static_cast<int32_t>(sequence->forks_.size());
  const int64_t headroom = running_.empty() ? 0 : rows() + 1 + forks;
  if (unpromised_pages() < missing + headroom) {
    while (!match.pages.empty()) match.pages.pop_back();
    refused_ = sequence;
    refused_prefix_ = match.prefix;
    return false;
  }
  sequence->indexed_pages_ = static_cast<int32_t>(match.pages.size());
  sequence->computed_ = sequence->indexed_pages_ * kPageTokens;
  if (sequence->preemptions_ == 0) sequence->cached_tokens_ = sequence->computed_;
  sequence->prefix_ = match.prefix;
  for (PageRef& page : match.pages) sequence->AddPage(std::move(page));
  sequence->state_ = Sequence::State::kRunning;
  rows_to_fork_ += forks;
  sequence->reserved_pages_ = missing;
  reserved_pages_ += missing;
  return true;
}

void Scheduler::PlanPrefills(int32_t budget) {
  int32_t left = budget;
  // All but the last token was found in the cache.
  for (Sequence* sequence : step_.admitted) {
    if (sequence->in_prefill() || left == 0) continue;
    Plan(sequence, 1);
    left--;
  }
  int32_t left_scored = kMaxScoredTokens;
  auto plan = [&](Sequence* sequence, int32_t tokens) {
    const bool scores = sequence->scores_prompt();
    if (scores) tokens = std::min(tokens, left_scored);
    if (tokens == 0) return 0;
    if (scores) left_scored -= tokens;
    Plan(sequence, tokens);
    return tokens;
  };
  std::vector<Sequence*> prompts;  // long ones
  const bool any_long = std::any_of(running_.begin(), running_.end(), [](const Sequence* s) {
    return s->in_prefill() && s->remaining() > kShortTokens;
  });
  int32_t for_short = any_long ? (left + 1) / 2 : left;
  for (Sequence* sequence : running_) {
    if (!sequence->in_prefill()) continue;
    if (sequence->remaining() > kShortTokens) {
      prompts.push_back(sequence);
    } else {
      const int32_t n = plan(sequence, std::min(sequence->remaining(), for_short));
      for_short -= n;
      left -= n;
    }
  }
  if (prompts.empty()) return;
  // Half of it for the others together, in shares that are worth a step; what they leave is the first one's, and what
  // that does not need goes to the next, and so on.
  const int32_t others =
      std::min(static_cast<int32_t>(prompts.size()) - 1, left / 2 / kShortTokens);
  std::vector<int32_t> shares(prompts.size(), 0);
  int32_t shared = 0;
  for (int32_t i = 1; i <= others; i++) {
    const int32_t share = left / 2 / others;
    shares[i] = share < prompts[i]->remaining() ? ToPageEnd(prompts[i]->computed(), share)
                                                : prompts[i]->remaining();
    shared += shares[i];
  }
  left -= shared;
  for (size_t i = 0; i < prompts.size() && left + shares[i] > 0; i++) {
    left += shares[i];
    left -= plan(prompts[i], std::min(prompts[i]->remaining(), left));
  }
}

int32_t Scheduler::num_decoding() const {
  return static_cast<int32_t>(std::count_if(running_.begin(), running_.end(),
                                            [](const Sequence* s) { return !s->in_prefill(); }));
}

void Scheduler::Commit() {
  for (const Entry& entry : step_.entries) {
    entry.sequence->computed_ += entry.num_tokens;
    IndexFullPages(entry.sequence);
    if (entry.sequence->remaining() == 0) Fork(entry.sequence);
  }
}

void Scheduler::Fork(Sequence* sequence) {
  rows_to_fork_ -= static_cast<int32_t>(sequence->forks_.size());
  for (Sequence* fork : std::exchange(sequence->forks_, {})) {
    fork->computed_ = sequence->computed_;
    fork->cached_tokens_ = sequence->cached_tokens_;
    fork->indexed_pages_ = sequence->indexed_pages_;
    fork->prefix_ = sequence->prefix_;
    for (PageId page : sequence->page_ids_) fork->AddPage(pool_->Share(page));
    fork->state_ = Sequence::State::kRunning;
    running_.insert(fork);
  }
}

void Scheduler::Plan(Sequence* sequence, int32_t num_tokens) {
  step_.entries.push_back({sequence, num_tokens});
  if (SharesNextPage(*sequence)) {
    PageRef page = TakeReserved(sequence);
    step_.copies.push_back({sequence->page_ids_.back(), page.id()});
    sequence->ReplaceLastPage(std::move(page));
  }
  const int32_t end = sequence->computed_ + num_tokens;
  while (sequence->num_pages() * kPageTokens < end) sequence->AddPage(TakeReserved(sequence));
}

PageRef Scheduler::TakeReserved(Sequence* sequence) {
  PageRef page = pool_->Allocate();
  TAUSERVE_CHECK(!page.empty() && sequence->reserved_pages_ > 0, "a reserved page is missing");
  sequence->reserved_pages_--;
  reserved_pages_--;
  return page;
}

void Scheduler::IndexFullPages(Sequence* sequence) {
  const Request& request = sequence->request();
  if (index_ == nullptr || request.bypass_prefix_cache) return;
  while ((sequence->indexed_pages_ + 1) * kPageTokens <= sequence->computed_) {
    const int32_t page = sequence->indexed_pages_++;
    if (sequence->prefix_ == refused_prefix_) refused_ = nullptr;
    sequence->prefix_ =
        index_->Add(request.cache_salt, sequence->prefix_,
                    sequence->tokens().subspan(int64_t{page} * kPageTokens, kPageTokens),
                    sequence->page_table()[page]);
  }
}

}  // namespace tauserve
