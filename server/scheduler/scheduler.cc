#include "server/scheduler/scheduler.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"

namespace tauserve {

Scheduler::Scheduler(const SchedulerOptions& options, PagePool* pool, PrefixIndex* index)
    : options_(options), pool_(pool), index_(index) {}

void Scheduler::Add(Sequence* sequence) {
  TAUSERVE_CHECK(sequence->max_pages() <= pool_->num_pages(), "a sequence larger than the cache");
  waiting_.push_back(sequence);
  waiting_prompt_tokens_ += sequence->prompt_tokens();
}

void Scheduler::Remove(Sequence* sequence) {
  if (sequence->running_) {
    running_.erase(std::find(running_.begin(), running_.end(), sequence));
    reserved_pages_ -= sequence->max_pages() - sequence->num_pages();
    sequence->running_ = false;
  } else {
    waiting_.erase(std::find(waiting_.begin(), waiting_.end(), sequence));
    waiting_prompt_tokens_ -= sequence->prompt_tokens();
  }
  sequence->ReleasePages();
  refused_ = nullptr;
}

const Scheduler::Step& Scheduler::Schedule() {
  step_.entries.clear();
  step_.admitted.clear();
  int32_t budget = options_.max_batched_tokens;
  auto take = [&](Sequence* sequence) {
    const int32_t n = std::min(sequence->remaining(), budget);
    if (n == 0) return;
    Plan(sequence, n);
    budget -= n;
  };
  for (Sequence* s : running_) {
    if (!s->in_prefill()) take(s);
  }
  for (Sequence* s : running_) {
    if (s->in_prefill()) take(s);
  }
  while (budget > 0 && !waiting_.empty() && num_running() < options_.max_running_requests) {
    Sequence* next = waiting_.front();
    if (next == refused_ || !Admit(next))
      break;  // in order of arrival: nobody overtakes one that waits for pages
    waiting_.pop_front();
    waiting_prompt_tokens_ -= next->prompt_tokens();
    running_.push_back(next);
    step_.admitted.push_back(next);
    take(next);
  }
  return step_;
}

void Scheduler::Commit() {
  for (const Entry& entry : step_.entries) {
    entry.sequence->computed_ += entry.num_tokens;
    IndexFullPages(entry.sequence);
  }
}

bool Scheduler::Admit(Sequence* sequence) {
  const Request& request = sequence->request();
  PrefixIndex::Match match;
  if (index_ != nullptr && !request.bypass_prefix_cache) {
    // The last prompt token is computed anew in any case: its logits are needed.
    match = index_->Find(request.cache_salt,
                         absl::MakeConstSpan(request.prompt).first(request.prompt.size() - 1));
  }
  const int64_t missing = sequence->max_pages() - static_cast<int64_t>(match.pages.size());
  if (pool_->free_pages() - reserved_pages_ < missing) {
    while (!match.pages.empty()) match.pages.pop_back();
    refused_ = sequence;
    refused_prefix_ = match.prefix;
    return false;
  }
  sequence->indexed_pages_ = static_cast<int32_t>(match.pages.size());
  sequence->cached_tokens_ = sequence->computed_ = sequence->indexed_pages_ * kPageTokens;
  sequence->prefix_ = match.prefix;
  for (PageRef& page : match.pages) sequence->AddPage(std::move(page));
  sequence->running_ = true;
  reserved_pages_ += missing;
  return true;
}

void Scheduler::Plan(Sequence* sequence, int32_t num_tokens) {
  step_.entries.push_back({sequence, num_tokens});
  const int32_t end = sequence->computed_ + num_tokens;
  while (sequence->num_pages() * kPageTokens < end) {
    PageRef page = pool_->Allocate();
    TAUSERVE_CHECK(!page.empty() && reserved_pages_ > 0, "a reserved page is missing");
    sequence->AddPage(std::move(page));
    reserved_pages_--;
  }
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
