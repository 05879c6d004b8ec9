// Prometheus' text format, version 0.0.4, as /metrics answers it. Read strictly: a figure that is shown wrong is worse than
// one that is missing.
#ifndef TAUSERVE_CLIENTS_CPP_METRICS_EXPOSITION_H_
#define TAUSERVE_CLIENTS_CPP_METRICS_EXPOSITION_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "clients/cpp/metrics/samples.h"

namespace tauserve::client {

// InvalidArgument, with the line's number and text, for what is not in the format, a series that comes twice, and a last
// line without its end: an answer that was cut off. Timestamps are read and left out.
absl::StatusOr<Samples> ParseExposition(absl::string_view text);

// As the format writes it, with its labels in the order of their names: name{label="value",...}.
std::string WrittenSeries(const Series& series);

}  // namespace tauserve::client

#endif  // TAUSERVE_CLIENTS_CPP_METRICS_EXPOSITION_H_
