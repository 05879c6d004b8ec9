// Which requests were served well: those that met all of the user's limits.
#ifndef TAUSERVE_CLIENTS_CPP_BENCH_GOODPUT_H_
#define TAUSERVE_CLIENTS_CPP_BENCH_GOODPUT_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "clients/cpp/bench/record.h"

namespace tauserve::bench {

// Seconds; unset: no limit.
struct GoodputLimits {
  std::optional<double> ttft;  // to the first token
  std::optional<double> itl;   // the largest gap between two tokens
  std::optional<double> tpot;  // mean time of a token after the first
  std::optional<double> e2e;   // to the end

  // Of words such as "ttft:500ms". InvalidArgument names the one that is wrong.
  static absl::StatusOr<GoodputLimits> Parse(const std::vector<std::string>& words);

  bool any() const { return ttft || itl || tpot || e2e; }
  // A request of fewer than two tokens has no gaps, and meets what is said of them; one that failed
  // meets nothing.
  bool MetBy(const RequestRecord& record) const;
};

}  // namespace tauserve::bench

#endif  // TAUSERVE_CLIENTS_CPP_BENCH_GOODPUT_H_
