// What a scrape of a server's metrics holds, and what two of them say together.
#ifndef TAUSERVE_CLIENTS_CPP_METRICS_SAMPLES_H_
#define TAUSERVE_CLIENTS_CPP_METRICS_SAMPLES_H_

#include <compare>
#include <map>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"

namespace tauserve::client {

using Labels = std::map<std::string, std::string>;

struct Series {
  std::string name;
  Labels labels;
  auto operator<=>(const Series&) const = default;
};

// The values of one scrape, those of a name beside each other.
using Samples = std::map<Series, double>;

// Those of this name that have these labels, and perhaps others.
void ForEachSeries(const Samples& samples, absl::string_view name, const Labels& labels,
                   absl::FunctionRef<void(const Series&, double)> visit);

// What a counter, whose value in the later scrape is `value`, has counted since the earlier one. It began anew at 0 if it
// falls, if its process is another (process_start_time_seconds), or if it was not there before.
double IncreaseBetween(const Samples& from, const Samples& to, const Series& series, double value);

}  // namespace tauserve::client

#endif  // TAUSERVE_CLIENTS_CPP_METRICS_SAMPLES_H_
