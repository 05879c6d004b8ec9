#include "clients/cpp/top/metrics_window.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"

namespace tauserve::client::top {
namespace {

absl::Time At(double seconds) { return absl::UnixEpoch() + absl::Seconds(seconds); }

TEST(MetricsWindowTest, RatesAreOverTheWholeWindow) {
  MetricsWindow window(2);
  window.Add(At(0), {{{"a", {}}, 100}});
  EXPECT_TRUE(std::isnan(window.Rate("a"))) << "one scrape says nothing";
  EXPECT_EQ(window.Value("a"), 100);
  window.Add(At(1), {{{"a", {}}, 110}});
  EXPECT_EQ(window.Rate("a"), 10);
  window.Add(At(2), {{{"a", {}}, 110}});
  EXPECT_EQ(window.Rate("a"), 5);
  window.Add(At(4), {{{"a", {}}, 140}});  // the first has left
  EXPECT_EQ(window.Increase("a"), 30);
  EXPECT_EQ(window.Rate("a"), 10);
  EXPECT_EQ(window.span(), absl::Seconds(3));
  EXPECT_TRUE(std::isnan(window.Rate("b"))) << "no such series";
  EXPECT_TRUE(std::isnan(window.Value("b")));
}

TEST(MetricsWindowTest, SeriesOfTheSameNameAreSummedByTheirLabels) {
  MetricsWindow window(1);
  const Series x1 = {"a", {{"x", "1"}, {"y", "1"}}}, x2 = {"a", {{"x", "2"}, {"y", "1"}}};
  window.Add(At(0), {{x1, 1}, {x2, 10}, {{"ab", {}}, 1000}, {{"Z", {}}, 1000}});
  window.Add(At(1), {{x1, 3}, {x2, 15}, {{"ab", {}}, 2000}, {{"Z", {}}, 2000}});
  EXPECT_EQ(window.Value("a"), 18);
  EXPECT_EQ(window.Increase("a"), 7);
  EXPECT_EQ(window.Increase("a", {{"x", "2"}}), 5);
  EXPECT_EQ(window.Increase("a", {{"y", "1"}}), 7);
  EXPECT_TRUE(std::isnan(window.Increase("a", {{"x", "3"}})));
  EXPECT_EQ(window.LabelsOf("a").at("y"), "1");
  EXPECT_TRUE(window.LabelsOf("b").empty());
}

TEST(MetricsWindowTest, ACounterThatFellBeganAnew) {
  MetricsWindow window(3);
  window.Add(At(0), {{{"a", {}}, 100}});
  window.Add(At(1), {{{"a", {}}, 150}});
  window.Add(At(2), {{{"a", {}}, 20}});
  EXPECT_EQ(window.Increase("a"), 50 + 20);
  window.Add(At(3), {{{"a", {}}, 25}});
  EXPECT_EQ(window.Increase("a"), 50 + 20 + 5);
}

// The counter has already passed where the old process left it.
TEST(MetricsWindowTest, ACounterOfAnotherProcessBeganAnewThoughItIsLarger) {
  MetricsWindow window(1);
  const Series start = {"process_start_time_seconds", {}};
  window.Add(At(0), {{{"a", {}}, 100}, {start, 1000}});
  window.Add(At(1), {{{"a", {}}, 130}, {start, 2000}});
  EXPECT_EQ(window.Increase("a"), 130);
  window.Add(At(2), {{{"a", {}}, 131}, {start, 2000}});
  EXPECT_EQ(window.Increase("a"), 1);
}

TEST(MetricsWindowTest, ASeriesThatWasNotThereBeganAtZero) {
  MetricsWindow window(1);
  window.Add(At(0), {{{"a", {{"x", "1"}}}, 5}});
  window.Add(At(1), {{{"a", {{"x", "1"}}}, 5}, {{"a", {{"x", "2"}}}, 3}});
  EXPECT_EQ(window.Increase("a"), 3);
}

TEST(MetricsWindowTest, RatiosAndMeans) {
  MetricsWindow window(1);
  window.Add(At(0), {{{"h_sum", {}}, 5}, {{"h_count", {}}, 1}});
  window.Add(At(1), {{{"h_sum", {}}, 11}, {{"h_count", {}}, 4}});
  EXPECT_EQ(window.Mean("h"), 2);
  EXPECT_EQ(window.Ratio("h_count", "h_sum"), 0.5);
  window.Add(At(2), {{{"h_sum", {}}, 11}, {{"h_count", {}}, 4}});
  EXPECT_TRUE(std::isnan(window.Mean("h"))) << "nothing was observed";
}

// A histogram's buckets: all observations up to each bound.
Samples Histogram(const std::vector<double>& bounds, const std::vector<double>& observed) {
  Samples samples;
  auto add = [&](const std::string& le, double bound) {
    const auto count = std::count_if(observed.begin(), observed.end(),
                                     [&](double value) { return value <= bound; });
    samples[{"h_bucket", {{"le", le}, {"model", "m"}}}] = count;
  };
  for (double bound : bounds) add(absl::StrCat(bound), bound);
  add("+Inf", std::numeric_limits<double>::infinity());
  return samples;
}

// What histogram_quantile does, as Prometheus' documentation says it: the observation of that rank, in its bucket as if
// these were spread evenly; the lowest bucket begins at 0, and of the highest the lower bound is given.
double PlainQuantile(double q, const std::vector<double>& bounds, std::vector<double> observed) {
  std::sort(observed.begin(), observed.end());
  const double rank = q * observed.size();
  const double value = observed[static_cast<size_t>(std::max(std::ceil(rank) - 1, 0.0))];
  const auto upper = std::lower_bound(bounds.begin(), bounds.end(), value);
  if (upper == bounds.end()) return bounds.back();
  const double from = upper == bounds.begin() ? 0 : *(upper - 1);
  if (*upper <= 0) return *upper;
  double below = 0, inside = 0;
  for (double other : observed) {
    if (upper != bounds.begin() && other <= from) {
      below++;
    } else if (other <= *upper) {
      inside++;
    }
  }
  return from + (*upper - from) * (rank - below) / inside;
}

TEST(MetricsWindowTest, QuantilesAreThoseOfAPlainStatement) {
  std::mt19937 random(7);
  const std::vector<std::vector<double>> ladders = {
      {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}, {1}, {0, 0.25, 1}};
  for (int round = 0; round < 300; round++) {
    const std::vector<double>& bounds = ladders[round % ladders.size()];
    std::lognormal_distribution<double> values(std::log(bounds.back() / 10), 1.5);
    std::vector<double> before(random() % 50), now(1 + random() % 60);
    for (double& value : before) value = values(random);
    for (double& value : now)
      value = random() % 8 == 0 ? bounds[random() % bounds.size()] : values(random);
    std::vector<double> all = before;
    all.insert(all.end(), now.begin(), now.end());
    MetricsWindow window(1);
    window.Add(At(0), Histogram(bounds, before));
    window.Add(At(1), Histogram(bounds, all));
    for (double q : {0.01, 0.5, 0.9, 0.95, 0.99, 1.0}) {
      EXPECT_NEAR(window.Quantile(q, "h"), PlainQuantile(q, bounds, now), 1e-9)
          << q << " of round " << round;
      EXPECT_EQ(window.Quantile(q, "h"), window.Quantile(q, "h", {{"model", "m"}}));
    }
  }
}

TEST(MetricsWindowTest, QuantilesOfSeveralSeriesAreOfThemTogether) {
  MetricsWindow window(1);
  Samples none, some;
  for (const char* kind : {"a", "b"}) {
    for (const char* le : {"1", "2", "+Inf"}) {
      none[{"h_bucket", {{"le", le}, {"kind", kind}}}] = 0;
      some[{"h_bucket", {{"le", le}, {"kind", kind}}}] = *le == '1' && *kind == 'b' ? 0 : 10;
    }
  }
  window.Add(At(0), none);
  window.Add(At(1), some);
  EXPECT_EQ(window.Quantile(0.75, "h"), 1.5);
  EXPECT_EQ(window.Quantile(0.5, "h", {{"kind", "a"}}), 0.5);
  EXPECT_EQ(window.Quantile(0.5, "h", {{"kind", "b"}}), 1.5);
}

TEST(MetricsWindowTest, NoQuantileWithoutObservationsOrTheLastBucket) {
  MetricsWindow window(1);
  window.Add(At(0), Histogram({1, 2}, {0.5}));
  EXPECT_TRUE(std::isnan(window.Quantile(0.5, "h")));
  window.Add(At(1), Histogram({1, 2}, {0.5}));
  EXPECT_TRUE(std::isnan(window.Quantile(0.5, "h")));
  window.Add(At(2), {{{"h_bucket", {{"le", "1"}}}, 5}, {{"h_bucket", {{"le", "2"}}}, 9}});
  EXPECT_TRUE(std::isnan(window.Quantile(0.5, "h")));
  EXPECT_TRUE(std::isnan(window.Quantile(0.5, "other")));
}

TEST(MetricsWindowTest, QuantilesGoOnWhenTheServerBeginsAnew) {
  MetricsWindow window(2);
  window.Add(At(0), Histogram({1, 2}, {0.5, 0.5, 0.5, 0.5}));
  window.Add(At(1), Histogram({1, 2}, {1.5, 1.5}));
  EXPECT_EQ(window.Quantile(0.5, "h"), 1.5);
}

}  // namespace
}  // namespace tauserve::client::top
