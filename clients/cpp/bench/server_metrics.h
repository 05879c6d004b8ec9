// The server's counters, from its Prometheus endpoint.
#ifndef TAUSERVE_CLIENTS_CPP_BENCH_SERVER_METRICS_H_
#define TAUSERVE_CLIENTS_CPP_BENCH_SERVER_METRICS_H_

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tauserve::bench {

// Values by name and labels, as they are written: tauserve_requests_total{code="OK"}. Only what
// counts up: names that end in _total, _count or _sum.
using Counters = std::map<std::string, double>;

// `address` is HOST:PORT, or a URL. UNAVAILABLE with the reason if that fails.
absl::StatusOr<Counters> ScrapeCounters(const std::string& address);

// Of Prometheus' text format. InvalidArgument, with the line, if it is something else.
absl::StatusOr<Counters> ParseCounters(absl::string_view text);

// What was counted in between; what is new counts from 0.
Counters Difference(const Counters& before, const Counters& after);

// Of all samples of `name`; if `label` is not empty, of those that have it, as it is written.
double SumOf(const Counters& counters, absl::string_view name, absl::string_view label = "");

}  // namespace tauserve::bench

#endif  // TAUSERVE_CLIENTS_CPP_BENCH_SERVER_METRICS_H_
