// A whole run of tauserve-bench: asks the server what it is, sends, and reports.
#ifndef TAUSERVE_CLIENTS_CPP_BENCH_BENCH_H_
#define TAUSERVE_CLIENTS_CPP_BENCH_BENCH_H_

#include "clients/cpp/bench/runner.h"
#include "clients/cpp/bench/settings.h"
#include "clients/cpp/client.h"
#include "clients/cpp/console.h"

namespace tauserve::bench {

// Returns the process's exit code. The text report goes to the console's `out`.
int RunBench(const Settings& settings, const std::string& address, client::Client& client,
             Runner& runner, const client::Console& console);

}  // namespace tauserve::bench

#endif  // TAUSERVE_CLIENTS_CPP_BENCH_BENCH_H_
