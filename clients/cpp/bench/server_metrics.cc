#include "clients/cpp/bench/server_metrics.h"

#include "absl/strings/match.h"

namespace tauserve::bench {
namespace {

bool CountsUp(absl::string_view name) {
  return absl::EndsWith(name, "_total") || absl::EndsWith(name, "_count") ||
         absl::EndsWith(name, "_sum");
}

}  // namespace

client::Samples CountedBetween(const client::Samples& before, const client::Samples& after) {
  client::Samples counted;
  for (const auto& [series, value] : after) {
    if (CountsUp(series.name)) {
      counted[series] = client::IncreaseBetween(before, after, series, value);
    }
  }
  return counted;
}

double SumOf(const client::Samples& counted, absl::string_view name, const client::Labels& labels) {
  double sum = 0;
  client::ForEachSeries(counted, name, labels,
                        [&](const client::Series&, double value) { sum += value; });
  return sum;
}

}  // namespace tauserve::bench
