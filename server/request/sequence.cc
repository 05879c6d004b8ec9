#include "server/request/sequence.h"

#include <utility>

namespace tauserve {

Sequence::Sequence(std::shared_ptr<const Request> request, int32_t candidate)
    : request_(std::move(request)), candidate_(candidate), tokens_(request_->prompt) {
  tokens_.reserve(request_->prompt.size() + request_->stopping.max_new_tokens);
}

int32_t Sequence::max_pages() const {
  const int32_t tokens = prompt_tokens() + request_->stopping.max_new_tokens - 1;
  return (tokens + kPageTokens - 1) / kPageTokens;
}

void Sequence::AddPage(PageRef page) {
  page_ids_.push_back(page.id());
  pages_.push_back(std::move(page));
}

void Sequence::ReplaceLastPage(PageRef page) {
  page_ids_.back() = page.id();
  pages_.back() = std::move(page);
}

void Sequence::ReleasePages() {
  while (!pages_.empty()) pages_.pop_back();
  page_ids_.clear();
}

}  // namespace tauserve
