// What the server's own counters say of a run.
#ifndef TAUSERVE_CLIENTS_CPP_BENCH_SERVER_METRICS_H_
#define TAUSERVE_CLIENTS_CPP_BENCH_SERVER_METRICS_H_

#include "absl/strings/string_view.h"
#include "clients/cpp/metrics/samples.h"

namespace tauserve::bench {

// What was counted between two scrapes: only series that count up, whose names end in _total, _count or _sum.
client::Samples CountedBetween(const client::Samples& before, const client::Samples& after);

// Of all series of `name` that have these labels; 0 if there is none.
double SumOf(const client::Samples& counted, absl::string_view name,
             const client::Labels& labels = {});

}  // namespace tauserve::bench

#endif  // TAUSERVE_CLIENTS_CPP_BENCH_SERVER_METRICS_H_
