// The report of a run: a text for people, and JSON for programs.
#ifndef TAUSERVE_CLIENTS_CPP_BENCH_BENCH_REPORT_H_
#define TAUSERVE_CLIENTS_CPP_BENCH_BENCH_REPORT_H_

#include <optional>
#include <string>
#include <vector>

#include "clients/cpp/bench/runner.h"
#include "clients/cpp/bench/server_metrics.h"
#include "clients/cpp/bench/settings.h"
#include "clients/cpp/bench/summary.h"
#include "nlohmann/json.hpp"

namespace tauserve::bench {

// All that a report is made of.
struct Measured {
  std::string address;
  std::string started_at;  // RFC 3339
  v1::GetModelResponse model;
  RunResult run;
  Summary summary;
  std::vector<Window> windows;             // of a ramp
  std::optional<client::Samples> counted;  // by the server's counters, during the run
  int cores = 1;                           // that this program may use
  bool interrupted = false;
};

// Lines of at most 80 columns, as long as names and messages are not long themselves.
std::string TextReport(const Settings& settings, const Measured& measured);

nlohmann::ordered_json JsonReport(const Settings& settings, const Measured& measured);

// "bench [####----] 40/100 done, 8 in flight, 2 failed, 512 tokens/s, 12 s left".
std::string RunProgressLine(const Settings& settings, const RunProgress& progress, int columns);

}  // namespace tauserve::bench

#endif  // TAUSERVE_CLIENTS_CPP_BENCH_BENCH_REPORT_H_
