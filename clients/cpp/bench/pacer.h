// Says when to send which request. It knows no clock and sends nothing itself, so that its rules can
// be seen at any speed.
//
// In an open loop requests are due when the arrivals say so, whatever the server does: one that is
// sent late, because this program was late or max_concurrency were in flight, is still measured from
// the time it was due. In a closed loop each of max_concurrency users sends the next request as soon
// as the last one has ended.
#ifndef TAUSERVE_CLIENTS_CPP_BENCH_PACER_H_
#define TAUSERVE_CLIENTS_CPP_BENCH_PACER_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <queue>
#include <vector>

#include "clients/cpp/bench/arrivals.h"

namespace tauserve::bench {

// All times are seconds from the start of the run.
class Pacer {
 public:
  struct Options {
    std::optional<Arrivals> arrivals;  // unset: a closed loop
    uint32_t max_concurrency = 0;      // 0: no limit; only in an open loop
    // What is reached first ends the sending.
    uint64_t num_requests = std::numeric_limits<uint64_t>::max();
    double duration = std::numeric_limits<double>::infinity();  // of requests that are due before
  };
  struct Step {
    enum class Kind { kSend, kWait, kDone };
    Kind kind = Kind::kDone;
    uint64_t index = 0;   // kSend: of the request, counted from 0
    double intended = 0;  // when it was due
    double ready = 0;     // when nothing but this program kept it from being sent
    double until = 0;     // kWait: for a request to end, but no longer than until then
  };

  explicit Pacer(Options options);

  // Each kSend is one request that is in flight from now on.
  Step Next(double now);
  // Its user, or its place among max_concurrency, is free again at `free_at`.
  void OnFinished(double free_at);
  // Sends nothing more.
  void Stop() { stopped_ = true; }

  uint64_t sent() const { return sent_; }
  uint64_t in_flight() const { return in_flight_; }

 private:
  bool IsSendingOver() const;
  bool limited() const { return options_.max_concurrency > 0; }

  Options options_;
  // Free places, by the time from which on they are.
  std::priority_queue<double, std::vector<double>, std::greater<double>> places_;
  double next_arrival_ = 0;
  uint64_t sent_ = 0;
  uint64_t in_flight_ = 0;
  bool stopped_ = false;
};

}  // namespace tauserve::bench

#endif  // TAUSERVE_CLIENTS_CPP_BENCH_PACER_H_
