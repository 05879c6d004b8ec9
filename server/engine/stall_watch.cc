#include "server/engine/stall_watch.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace tauserve {

bool StallDetector::Look(const EnginePulse& pulse, absl::Duration elapsed) {
  if (pulse.idle || pulse.beats != beats_) {
    beats_ = pulse.beats;
    quiet_ = absl::ZeroDuration();
    return false;
  }
  quiet_ += elapsed;
  return quiet_ >= std::max(limit_, kQuietSteps * pulse.longest_quiet_step);
}

StallWatch::StallWatch(const Engine* engine, absl::Duration limit,
                       std::function<void(bool)> on_change)
    : engine_(engine),
      interval_(limit / 16),
      on_change_(std::move(on_change)),
      detector_(limit),
      thread_([this] { Main(); }) {}

StallWatch::~StallWatch() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    wake_.notify_one();
  }
  thread_.join();
}

void StallWatch::Main() {
  bool stuck = false;
  auto last = std::chrono::steady_clock::now();
  std::unique_lock<std::mutex> lock(mutex_);
  while (!wake_.wait_for(lock, absl::ToChronoNanoseconds(interval_), [this] { return stop_; })) {
    lock.unlock();
    const auto now = std::chrono::steady_clock::now();
    // Who was stopped itself, with the whole process, does not know what the engine did.
    const absl::Duration elapsed = std::min(absl::FromChrono(now - last), 2 * interval_);
    last = now;
    if (detector_.Look(engine_->pulse(), elapsed) != stuck) {
      stuck = !stuck;
      on_change_(stuck);
    }
    lock.lock();
  }
}

}  // namespace tauserve
