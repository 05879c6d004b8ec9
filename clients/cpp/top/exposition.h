// Prometheus' text format, version 0.0.4, as /metrics answers it. Read strictly: a figure that is shown wrong is worse than
// one that is missing.
#ifndef TAUSERVE_CLIENTS_CPP_TOP_EXPOSITION_H_
#define TAUSERVE_CLIENTS_CPP_TOP_EXPOSITION_H_

#include <compare>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tauserve::client::top {

using Labels = std::map<std::string, std::string>;

struct Series {
  std::string name;
  Labels labels;
  auto operator<=>(const Series&) const = default;
};

// The values of one scrape, those of a name beside each other.
using Samples = std::map<Series, double>;

// InvalidArgument, with the line's number and text, for what is not in the format, a series that comes twice, and a last
// line without its end: an answer that was cut off. Timestamps are read and left out.
absl::StatusOr<Samples> ParseExposition(absl::string_view text);

}  // namespace tauserve::client::top

#endif  // TAUSERVE_CLIENTS_CPP_TOP_EXPOSITION_H_
