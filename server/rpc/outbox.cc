#include "server/rpc/outbox.h"

#include <iterator>

namespace tauserve {
namespace {

template <typename T>
void MoveToEnd(std::vector<T>& to, std::vector<T>& from) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

void Outbox::Put(Delta delta) {
  if (!delta_) {
    delta_ = std::move(delta);
    return;
  }
  delta_->text += delta.text;
  MoveToEnd(delta_->tokens, delta.tokens);
  MoveToEnd(delta_->logprobs, delta.logprobs);
}

Outbox::Event Outbox::Take() {
  auto take = [](auto& slot) {
    Event event = *std::move(slot);
    slot.reset();
    return event;
  };
  if (started_) return take(started_);
  if (progress_) return take(progress_);
  if (delta_) return take(delta_);
  if (end_) return take(end_);
  return std::monostate();
}

}  // namespace tauserve
