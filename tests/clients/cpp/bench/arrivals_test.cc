// Arrivals against the process that they are to be. Seeds are fixed, so that bounds of five standard
// errors hold always or never.
#include "clients/cpp/bench/arrivals.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace tauserve::bench {
namespace {

using testing::HasSubstr;

constexpr int kCount = 20000;

RateCurve Steady(double rate) { return {rate, rate, 0, 0}; }

std::vector<double> Times(const RateCurve& curve, double burstiness, int count = kCount) {
  Arrivals arrivals(curve, burstiness, /*seed=*/1);
  std::vector<double> times(count);
  for (double& time : times) time = arrivals.Next();
  return times;
}

std::vector<double> Gaps(std::vector<double> times) {
  std::adjacent_difference(times.begin(), times.end(), times.begin());
  return times;
}

double Mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / values.size();
}

double Variance(const std::vector<double>& values) {
  const double mean = Mean(values);
  double sum = 0;
  for (const double value : values) sum += (value - mean) * (value - mean);
  return sum / values.size();
}

TEST(ArrivalsTest, GapsHaveMeanAndVarianceOfTheirGamma) {
  for (const double burstiness : {0.25, 1.0, 4.0}) {
    const std::vector<double> gaps = Gaps(Times(Steady(8), burstiness));
    // Of a gamma distribution the mean's relative error is 1/sqrt(shape · n); the variance's,
    // sqrt((2 + 6/shape) / n).
    EXPECT_NEAR(Mean(gaps) * 8, 1, 5 / std::sqrt(burstiness * kCount));
    EXPECT_NEAR(Variance(gaps) * 64 * burstiness, 1, 5 * std::sqrt((2 + 6 / burstiness) / kCount));
  }
}

TEST(ArrivalsTest, PoissonGapsAreExponential) {
  std::vector<double> gaps = Gaps(Times(Steady(3), 1));
  std::sort(gaps.begin(), gaps.end());
  double distance = 0;  // of Kolmogorov and Smirnov
  for (int i = 0; i < kCount; i++) {
    const double expected = 1 - std::exp(-3 * gaps[i]);
    distance = std::max({distance, std::abs(expected - i / double{kCount}),
                         std::abs(expected - (i + 1) / double{kCount})});
  }
  EXPECT_LT(distance * std::sqrt(kCount), 1.95) << "by chance with probability 0.001";
}

TEST(ArrivalsTest, EvenSpacing) {
  const std::vector<double> times = Times(Steady(4), std::numeric_limits<double>::infinity(), 8);
  for (int i = 0; i < 8; i++) EXPECT_DOUBLE_EQ(times[i], (i + 1) / 4.0);
}

TEST(ArrivalsTest, SameSeedSameTimes) {
  Arrivals a(Steady(2), 1, 7), b(Steady(2), 1, 7), c(Steady(2), 1, 8);
  const double first = a.Next();
  EXPECT_EQ(first, b.Next());
  EXPECT_NE(first, c.Next());
}

// Arrivals of each tenth of a ramp are Poisson distributed about the rate's integral.
TEST(ArrivalsTest, RampsFollowTheirRate) {
  for (const uint32_t steps : {0, 5}) {
    for (const auto& [first, last] : {std::pair(10.0, 200.0), std::pair(200.0, 10.0)}) {
      const RateCurve curve{first, last, steps, /*ramp_seconds=*/100};
      const std::vector<double> times = Times(curve, 1);
      for (int part = 0; part < 10; part++) {
        const double count = std::count_if(times.begin(), times.end(), [&](double t) {
          return t >= part * 10 && t < (part + 1) * 10;
        });
        const double expected = curve.At(part * 10 + 5) * 10;
        EXPECT_NEAR(count, expected, 5 * std::sqrt(expected)) << steps << " " << part;
      }
    }
  }
}

TEST(RateCurveTest, TimeIsTheInverseOfTheIntegral) {
  for (const RateCurve& curve : {RateCurve{1, 20, 0, 30}, RateCurve{20, 1, 0, 30},
                                 RateCurve{1, 20, 4, 30}, RateCurve{3, 3, 0, 0}}) {
    // Sums of the rate over short times.
    double count = 0;
    constexpr double kStep = 1e-3;
    for (double t = 0; t < 40; t += kStep) {
      EXPECT_NEAR(curve.TimeOf(count), t, 0.05);
      count += curve.At(t + kStep / 2) * kStep;
    }
  }
}

TEST(RateCurveTest, StaysAtItsEnd) {
  const RateCurve curve{1, 3, 0, 10};
  EXPECT_DOUBLE_EQ(curve.TimeOf(20), 10);
  EXPECT_DOUBLE_EQ(curve.TimeOf(26), 12);
  EXPECT_EQ(curve.At(100), 3);
  const RateCurve steps{1, 3, 2, 10};
  EXPECT_EQ(steps.At(4.9), 1);
  EXPECT_EQ(steps.At(5.1), 3);
}

TEST(RateCurveTest, ReadsRamps) {
  const auto curve = RateCurve::ParseRamp("1:20:5");
  ASSERT_TRUE(curve.ok());
  EXPECT_EQ(curve->first, 1);
  EXPECT_EQ(curve->last, 20);
  EXPECT_EQ(curve->steps, 5);
  EXPECT_EQ(RateCurve::ParseRamp("1:20")->steps, 0);
  for (const char* wrong : {"", "5", "0:3", "-1:3", "1:inf", "1:x", "1:2:1", "1:2:x", "1:2:3:4"}) {
    const auto refused = RateCurve::ParseRamp(wrong);
    ASSERT_FALSE(refused.ok()) << wrong;
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr(wrong));
  }
}

}  // namespace
}  // namespace tauserve::bench
