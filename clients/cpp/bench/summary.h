// What a run's records say together.
#ifndef TAUSERVE_CLIENTS_CPP_BENCH_SUMMARY_H_
#define TAUSERVE_CLIENTS_CPP_BENCH_SUMMARY_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "clients/cpp/bench/arrivals.h"
#include "clients/cpp/bench/distribution.h"
#include "clients/cpp/bench/goodput.h"
#include "clients/cpp/bench/record.h"

namespace tauserve::bench {

struct Summary {
  struct Failures {
    uint64_t count = 0;
    std::string message;  // of the first
  };

  double seconds = 0;  // what rates are over
  uint64_t requests = 0;
  uint64_t ok = 0;
  uint64_t good = 0;         // within all limits
  uint64_t interrupted = 0;  // by the user
  uint64_t retries = 0;
  std::map<std::string, Failures> failures;        // by status
  std::map<std::string, uint64_t> finish_reasons;  // of those that are ok

  // Of requests that are ok.
  uint64_t prompt_tokens = 0;
  uint64_t cached_prompt_tokens = 0;
  uint64_t output_tokens = 0;
  uint64_t deltas = 0;  // messages that the output came in
  Distribution ttft, itl, tpot, e2e;
  Distribution queue, prefill;  // what the server says of it
  uint64_t preemptions = 0;
  v1::AttentionStats attention;  // sums; means over all rows

  // Of all requests.
  Distribution send_lag;  // sent after they were due
  Distribution loop_lag;  // by this program's fault

  double PerSecond(double count) const { return seconds > 0 ? count / seconds : 0; }
};

Summary Summarize(const std::vector<RequestRecord>& records, double seconds,
                  const GoodputLimits& limits);

// A part of a run: the requests that were due in it.
struct Window {
  double begin = 0;
  double end = 0;
  double rate = 0;  // requests a second that were asked for, in its middle
  Summary summary;
};

// Of a ramp: its steps, or ten equal parts, as far as requests were due.
std::vector<Window> RampWindows(const std::vector<RequestRecord>& records, const RateCurve& curve,
                                const GoodputLimits& limits);

}  // namespace tauserve::bench

#endif  // TAUSERVE_CLIENTS_CPP_BENCH_SUMMARY_H_
