#include "clients/cpp/top/monitor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace tauserve::client::top {
namespace {

absl::Time At(double seconds) { return absl::UnixEpoch() + absl::Seconds(seconds); }

Scrape Generated(double seconds, double tokens, double start) {
  return {At(seconds), Samples{{{"tauserve_generation_tokens_total", {}}, tokens},
                               {{"process_start_time_seconds", {}}, start}}};
}

Scrape Failed(double seconds) { return {At(seconds), absl::UnavailableError("no connection")}; }

struct Shown {
  double value;
  std::deque<double> curve;
};

Shown TokensPerSecond(const State& state) {
  for (size_t r = 0; r < state.rows.size(); r++) {
    const FigureRow& row = state.rows[r];
    if (row.figures[0].key == std::string("decode_tokens_per_second")) {
      return {row.figures[0].value, state.curves[r]};
    }
  }
  return {};
}

TEST(MonitorTest, GoesOnWhenTheServerIsGoneAndComesBack) {
  Monitor monitor("here:1", absl::Seconds(1), 1, Generated(100, 1000, 50));
  monitor.Add(Generated(101, 1010, 50));
  EXPECT_EQ(TokensPerSecond(monitor.StateAt(At(101))).value, 10);

  monitor.Add(Failed(102));
  monitor.Add(Failed(103));
  State state = monitor.StateAt(At(103.5));
  EXPECT_EQ(state.failure, "no connection");
  EXPECT_EQ(state.now - state.scraped, absl::Seconds(2.5));
  EXPECT_EQ(TokensPerSecond(state).value, 10) << "as it was";

  monitor.Add(Generated(105, 40, 103));  // begun anew: 40 tokens in the 4 s since the last scrape
  state = monitor.StateAt(At(105));
  EXPECT_EQ(state.failure, "");
  EXPECT_EQ(state.facts.started, At(103));
  const Shown shown = TokensPerSecond(state);
  EXPECT_EQ(shown.value, 10);
  ASSERT_EQ(shown.curve.size(), 4);
  EXPECT_TRUE(std::isnan(shown.curve[1]) && std::isnan(shown.curve[2])) << "gaps";
}

TEST(MonitorTest, CurvesEndSomewhere) {
  Monitor monitor("here:1", absl::Seconds(1), 5, Generated(0, 0, 0));
  for (int i = 1; i < 1000; i++) monitor.Add(Generated(i, i, 0));
  const Shown shown = TokensPerSecond(monitor.StateAt(At(1000)));
  EXPECT_GE(shown.curve.size(), 72) << "what a wide screen shows";
  EXPECT_LT(shown.curve.size(), 1000);
  EXPECT_EQ(std::count(shown.curve.begin(), shown.curve.end(), 1), shown.curve.size());
}

}  // namespace
}  // namespace tauserve::client::top
