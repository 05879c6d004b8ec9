// A candidate of a request in flight: its tokens, how many of them are in the KV cache, and the pages that hold them.
#ifndef TAUSERVE_SERVER_REQUEST_SEQUENCE_H_
#define TAUSERVE_SERVER_REQUEST_SEQUENCE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "server/cache/page_pool.h"
#include "server/cache/prefix_index.h"
#include "server/request/request.h"

namespace tauserve {

class Sequence {
 public:
  explicit Sequence(std::shared_ptr<const Request> request, int32_t candidate = 0);

  const Request& request() const { return *request_; }
  int32_t candidate() const { return candidate_; }
  absl::Span<const int32_t> tokens() const { return tokens_; }  // prompt, then output
  int32_t num_tokens() const { return static_cast<int32_t>(tokens_.size()); }
  int32_t prompt_tokens() const { return static_cast<int32_t>(request_->prompt.size()); }
  int32_t new_tokens() const { return num_tokens() - prompt_tokens(); }
  absl::Span<const int32_t> output() const { return tokens().subspan(prompt_tokens()); }
  void Append(int32_t token) { tokens_.push_back(token); }

  // Tokens whose keys and values are in the cache.
  int32_t computed() const { return computed_; }
  int32_t remaining() const { return num_tokens() - computed_; }
  // More than its last token is to be computed: the prompt, or, after a preemption, what was known already.
  bool in_prefill() const { return computed_ < prompt_tokens() || remaining() > 1; }
  // Of the prompt, found by the prefix index when the sequence first ran.
  int32_t cached_tokens() const { return cached_tokens_; }
  int32_t preemptions() const { return preemptions_; }
  bool running() const { return state_ == State::kRunning; }

  // Prompt tokens whose log-probabilities are known, from the first on. That of a token needs the logits of the token
  // before it.
  int32_t scored() const { return scored_; }
  void set_scored(int32_t tokens) { scored_ = tokens; }
  // Log-probabilities of its prompt are wanted and not all known.
  bool scores_prompt() const {
    return candidate_ == 0 && request_->output.top_prompt_logprobs && scored_ < prompt_tokens();
  }

  // Pages that the longest possible run of this request needs. The last new token is never in the cache.
  int32_t max_pages() const;
  int32_t num_pages() const { return static_cast<int32_t>(pages_.size()); }
  const PageId* page_table() const { return page_ids_.data(); }

 private:
  friend class Scheduler;
  enum class State {
    kOut,  // not in the scheduler, or waits there for the prompt of the request's first candidate
    kWaiting,
    kRunning
  };

  void AddPage(PageRef page);
  void ReplaceLastPage(PageRef page);
  void ReleasePages();  // last page first, so that the start of a prefix is kept longest

  std::shared_ptr<const Request> request_;
  int32_t candidate_;
  std::vector<int32_t> tokens_;
  int32_t computed_ = 0;
  int32_t cached_tokens_ = 0;
  int32_t scored_ = 0;
  std::vector<PageRef> pages_;
  std::vector<PageId> page_ids_;
  State state_ = State::kOut;
  std::vector<Sequence*> forks_;  // begin where its prompt ends, on its pages; empty once they have
  uint64_t order_ = 0;            // of Scheduler::Add
  int32_t preemptions_ = 0;
  int32_t reserved_pages_ = 0;  // promised, not yet allocated
  int32_t indexed_pages_ = 0;   // full pages that the prefix index knows
  PrefixIndex::PrefixId prefix_ = PrefixIndex::kRoot;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_REQUEST_SEQUENCE_H_
