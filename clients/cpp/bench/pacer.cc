#include "clients/cpp/bench/pacer.h"

#include <algorithm>
#include <utility>

namespace tauserve::bench {

Pacer::Pacer(Options options) : options_(std::move(options)) {
  for (uint32_t i = 0; i < options_.max_concurrency; i++) places_.push(0);
  if (options_.arrivals) next_arrival_ = options_.arrivals->Next();
}

bool Pacer::IsSendingOver() const {
  if (stopped_ || sent_ >= options_.num_requests) return true;
  if (options_.arrivals) return next_arrival_ >= options_.duration;
  return !places_.empty() && places_.top() >= options_.duration;
}

Pacer::Step Pacer::Next(double now) {
  constexpr double kForever = std::numeric_limits<double>::infinity();
  Step step;
  if (IsSendingOver()) {
    step.kind = in_flight_ == 0 ? Step::Kind::kDone : Step::Kind::kWait;
    step.until = kForever;
    return step;
  }
  if (limited() && places_.empty()) {
    step.kind = Step::Kind::kWait;
    step.until = kForever;
    return step;
  }
  step.intended = options_.arrivals ? next_arrival_ : places_.top();
  step.ready = limited() ? std::max(step.intended, places_.top()) : step.intended;
  if (now < step.ready) {
    step.kind = Step::Kind::kWait;
    step.until = step.ready;
    return step;
  }
  step.kind = Step::Kind::kSend;
  step.index = sent_++;
  in_flight_++;
  if (limited()) places_.pop();
  if (options_.arrivals) next_arrival_ = options_.arrivals->Next();
  return step;
}

void Pacer::OnFinished(double free_at) {
  in_flight_--;
  if (limited()) places_.push(free_at);
}

}  // namespace tauserve::bench
