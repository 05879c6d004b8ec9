#include "server/rpc/outbox.h"

#include <iterator>

namespace tauserve {
namespace {

template <typename T>
void MoveToEnd(std::vector<T>& to, std::vector<T>& from) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

void Outbox::Put(Progress progress) {
  if (progress_) {
    MoveToEnd(progress_->logprobs, progress.logprobs);
    progress.logprobs = std::move(progress_->logprobs);
  }
  progress_ = std::move(progress);
}

void Outbox::Put(Delta delta) {
  std::optional<Delta>& waiting = candidates_[delta.candidate].delta;
  if (!waiting) {
    waiting = std::move(delta);
    return;
  }
  waiting->text += delta.text;
  MoveToEnd(waiting->tokens, delta.tokens);
  MoveToEnd(waiting->logprobs, delta.logprobs);
}

void Outbox::Put(Finish finish) {
  std::optional<Finish>& waiting = candidates_[finish.candidate].finish;
  waiting = std::move(finish);
}

Outbox::Event Outbox::Take() {
  auto take = [](auto& slot) {
    Event event = *std::move(slot);
    slot.reset();
    return event;
  };
  if (started_) return take(started_);
  if (progress_) return take(progress_);
  if (!candidates_.empty()) {
    auto it = candidates_.lower_bound(next_candidate_);
    if (it == candidates_.end()) it = candidates_.begin();
    next_candidate_ = it->first + 1;
    Candidate& candidate = it->second;
    Event event = candidate.delta ? take(candidate.delta) : take(candidate.finish);
    if (!candidate.delta && !candidate.finish) candidates_.erase(it);
    return event;
  }
  if (end_) return take(end_);
  return std::monostate();
}

}  // namespace tauserve
