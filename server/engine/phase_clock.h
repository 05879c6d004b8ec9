// Where the engine's thread spends its time: every moment belongs to the phase that was entered last. One thread enters
// phases, any may ask, also while one lasts.
#ifndef TAUSERVE_SERVER_ENGINE_PHASE_CLOCK_H_
#define TAUSERVE_SERVER_ENGINE_PHASE_CLOCK_H_

#include <array>
#include <chrono>
#include <mutex>

#include "absl/time/time.h"
#include "server/observability/metrics.h"

namespace tauserve {

class PhaseClock {
 public:
  using Spent = std::array<absl::Duration, kEnginePhases>;

  // Begins in kWait.
  PhaseClock() : since_(Clock::now()) {}

  void Enter(EnginePhase phase) {
    std::lock_guard<std::mutex> lock(mutex_);
    const Clock::time_point now = Clock::now();
    spent_[static_cast<int>(phase_)] += now - since_;
    since_ = now;
    phase_ = phase;
  }
  // Up to this moment.
  Spent spent() const {
    std::lock_guard<std::mutex> lock(mutex_);
    Spent spent;
    for (int p = 0; p < kEnginePhases; p++) spent[p] = absl::FromChrono(spent_[p]);
    spent[static_cast<int>(phase_)] += absl::FromChrono(Clock::now() - since_);
    return spent;
  }

 private:
  using Clock = std::chrono::steady_clock;

  mutable std::mutex mutex_;  // of all below
  EnginePhase phase_ = EnginePhase::kWait;
  Clock::time_point since_;
  std::array<Clock::duration, kEnginePhases> spent_{};
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_ENGINE_PHASE_CLOCK_H_
