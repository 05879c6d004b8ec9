// Where the engine's thread spends its time: every moment belongs to the phase that was entered last. Used by one thread.
#ifndef TAUSERVE_SERVER_ENGINE_PHASE_CLOCK_H_
#define TAUSERVE_SERVER_ENGINE_PHASE_CLOCK_H_

#include <array>
#include <chrono>

#include "server/observability/metrics.h"

namespace tauserve {

class PhaseClock {
 public:
  // Begins in kWait.
  explicit PhaseClock(Metrics* metrics) : metrics_(metrics), since_(Clock::now()) {}

  void Enter(EnginePhase phase) {
    const Clock::time_point now = Clock::now();
    spent_[static_cast<int>(phase_)] += now - since_;
    since_ = now;
    phase_ = phase;
  }
  // Tells the metrics what has been spent since the last time.
  void Report() {
    for (int p = 0; p < kEnginePhases; p++) {
      if (spent_[p] == Clock::duration::zero()) continue;
      metrics_->EngineTime(static_cast<EnginePhase>(p), absl::FromChrono(spent_[p]));
      spent_[p] = Clock::duration::zero();
    }
  }

 private:
  using Clock = std::chrono::steady_clock;

  Metrics* const metrics_;
  EnginePhase phase_ = EnginePhase::kWait;
  Clock::time_point since_;
  std::array<Clock::duration, kEnginePhases> spent_{};
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_ENGINE_PHASE_CLOCK_H_
