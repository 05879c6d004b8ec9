// Reading Prometheus' text format.
#include "clients/cpp/bench/server_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tauserve::bench {
namespace {

using testing::HasSubstr;
using testing::Pair;
using testing::UnorderedElementsAre;

TEST(ServerMetricsTest, KeepsWhatCountsUp) {
  const auto counters = ParseCounters(
      "# HELP a_total What a } is.\n"
      "# TYPE a_total counter\n"
      "a_total{code=\"OK\",model=\"a b } c\"} 3\n"
      "a_total{code=\"UNAVAILABLE\",model=\"a b } c\"} 4 1700000000000\n"
      "plain_total 1.5e3\n"
      "h_bucket{le=\"+Inf\"} 7\nh_sum 0.25\nh_count 7\n"
      "gauge 5\n");
  ASSERT_TRUE(counters.ok()) << counters.status();
  EXPECT_THAT(*counters, UnorderedElementsAre(
                             Pair("a_total{code=\"OK\",model=\"a b } c\"}", 3),
                             Pair("a_total{code=\"UNAVAILABLE\",model=\"a b } c\"}", 4),
                             Pair("plain_total", 1500), Pair("h_sum", 0.25), Pair("h_count", 7)));
  EXPECT_EQ(SumOf(*counters, "a_total"), 7);
  EXPECT_EQ(SumOf(*counters, "a_total", "code=\"OK\""), 3);
  EXPECT_EQ(SumOf(*counters, "a"), 0);
}

TEST(ServerMetricsTest, DifferenceCountsNewOnesFromZero) {
  EXPECT_THAT(Difference({{"a_total", 2}, {"gone_total", 1}}, {{"a_total", 5}, {"b_total", 3}}),
              UnorderedElementsAre(Pair("a_total", 3), Pair("b_total", 3)));
}

TEST(ServerMetricsTest, RefusesWhatIsNoMetrics) {
  const auto counters = ParseCounters("<html>\n");
  ASSERT_FALSE(counters.ok());
  EXPECT_THAT(std::string(counters.status().message()), HasSubstr("<html>"));
  EXPECT_FALSE(ParseCounters("a_total x\n").ok());
  EXPECT_FALSE(ParseCounters("a_total{b=\"c\"}\n").ok());
}

TEST(ServerMetricsTest, SaysWhoDoesNotAnswer) {
  const auto counters = ScrapeCounters("127.0.0.1:1");
  ASSERT_FALSE(counters.ok());
  EXPECT_THAT(std::string(counters.status().message()),
              HasSubstr("metrics: http://127.0.0.1:1/metrics: "));
}

}  // namespace
}  // namespace tauserve::bench
