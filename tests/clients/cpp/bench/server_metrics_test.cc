// What a server's counters say of a run.
#include "clients/cpp/bench/server_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tauserve::bench {
namespace {

using client::Samples;
using client::Series;
using testing::Pair;
using testing::UnorderedElementsAre;

const Series kOk = {"a_total", {{"code", "OK"}, {"model", "m"}}};
const Series kRefused = {"a_total", {{"code", "UNAVAILABLE"}, {"model", "m"}}};
const Series kStart = {"process_start_time_seconds", {}};

TEST(ServerMetricsTest, KeepsWhatCountsUp) {
  const Samples before = {{kStart, 7},
                          {kOk, 2},
                          {kRefused, 4},
                          {{"gauge", {}}, 1},
                          {{"h_sum", {}}, 1},
                          {{"h_count", {}}, 3},
                          {{"gone_total", {}}, 1}};
  const Samples after = {{kStart, 7},
                         {kOk, 5},
                         {kRefused, 4},
                         {{"gauge", {}}, 5},
                         {{"h_sum", {}}, 1.25},
                         {{"h_count", {}}, 10},
                         {{"h_bucket", {{"le", "+Inf"}}}, 10},
                         {{"new_total", {}}, 3}};
  EXPECT_THAT(
      CountedBetween(before, after),
      UnorderedElementsAre(Pair(kOk, 3), Pair(kRefused, 0), Pair(Series{"h_sum", {}}, 0.25),
                           Pair(Series{"h_count", {}}, 7), Pair(Series{"new_total", {}}, 3)));
}

TEST(ServerMetricsTest, AServerThatWasStartedAgainCountsFromZero) {
  EXPECT_THAT(CountedBetween({{kStart, 7}, {kOk, 2}}, {{kStart, 9}, {kOk, 5}}),
              UnorderedElementsAre(Pair(kOk, 5)));
  EXPECT_THAT(CountedBetween({{kOk, 5}}, {{kOk, 2}}), UnorderedElementsAre(Pair(kOk, 2)));
}

TEST(ServerMetricsTest, SumsByNameAndLabels) {
  const Samples counted = {{kOk, 3}, {kRefused, 4}, {{"a_total_of_others", {}}, 100}};
  EXPECT_EQ(SumOf(counted, "a_total"), 7);
  EXPECT_EQ(SumOf(counted, "a_total", {{"code", "OK"}}), 3);
  EXPECT_EQ(SumOf(counted, "a_total", {{"code", "O"}}), 0);
  EXPECT_EQ(SumOf(counted, "a"), 0);
}

}  // namespace
}  // namespace tauserve::bench
