#include "clients/cpp/metrics/samples.h"

#include <algorithm>
#include <optional>

namespace tauserve::client {
namespace {

bool Has(const Labels& have, const Labels& wanted) {
  return std::all_of(wanted.begin(), wanted.end(), [&](const auto& label) {
    const auto it = have.find(label.first);
    return it != have.end() && it->second == label.second;
  });
}

std::optional<double> ValueOf(const Samples& samples, const Series& series) {
  const auto it = samples.find(series);
  if (it == samples.end()) return std::nullopt;
  return it->second;
}

bool AreOfOneProcess(const Samples& a, const Samples& b) {
  const Series start = {"process_start_time_seconds", {}};
  return ValueOf(a, start) == ValueOf(b, start);
}

}  // namespace

void ForEachSeries(const Samples& samples, absl::string_view name, const Labels& labels,
                   absl::FunctionRef<void(const Series&, double)> visit) {
  for (auto it = samples.lower_bound({std::string(name), {}});
       it != samples.end() && it->first.name == name; ++it) {
    if (Has(it->first.labels, labels)) visit(it->first, it->second);
  }
}

double IncreaseBetween(const Samples& from, const Samples& to, const Series& series, double value) {
  const double before = AreOfOneProcess(from, to) ? ValueOf(from, series).value_or(0) : 0;
  return value < before ? value : value - before;
}

}  // namespace tauserve::client
