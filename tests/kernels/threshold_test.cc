// The facts that the kernels rest on (kernels/entmax), on fresh random scores.
#include "kernels/entmax/threshold.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <vector>

#include "kernels/reference/attention.h"

namespace tauserve::entmax {
namespace {

constexpr float kAlphas[] = {1.05f, 1.2f, 1.5f, 1.7f, 2.0f};

// Scaled scores measured from their maximum.
std::vector<float> RandomRow(std::mt19937& random, int n, float sigma) {
  std::normal_distribution<float> normal(0, sigma);
  std::vector<float> y(n);
  for (float& x : y) x = normal(random);
  const float max = *std::max_element(y.begin(), y.end());
  for (float& x : y) x -= max;
  return y;
}

// The gap by the oracle: the largest weight is u^e.
double ExactGap(const std::vector<float>& y, float alpha) {
  std::vector<double> a;
  for (float x : y) a.push_back(x / (double{alpha} - 1));
  const std::vector<double> p = reference::Weights(a, alpha);
  return std::pow(*std::max_element(p.begin(), p.end()), double{alpha} - 1);
}

PowerSums Sums(const WeightFunction& w, const std::vector<float>& y, float u) {
  PowerSums sums;
  for (float x : y) Accumulate(w, u + x, sums);
  return sums;
}

class ThresholdTest : public testing::TestWithParam<float> {
 protected:
  void ForRandomRows(const std::function<void(const std::vector<float>&, double)>& check) {
    const uint32_t seed = std::random_device()();
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937 random(seed);
    for (int i = 0; i < 200; i++) {
      const int n = 1 + random() % 500;
      const float sigma = std::exp(static_cast<float>(random() % 9) - 6);
      const std::vector<float> y = RandomRow(random, n, sigma);
      check(y, ExactGap(y, GetParam()));
    }
  }
  WeightFunction f_ = MakeWeightFunction(GetParam());
};

INSTANTIATE_TEST_SUITE_P(Alphas, ThresholdTest, testing::ValuesIn(kAlphas), [](const auto& info) {
  return std::to_string(static_cast<int>(info.param * 100 + 0.5));
});

TEST_P(ThresholdTest, RootLiesInTheWidestBracket) {
  ForRandomRows([&](const std::vector<float>& y, double u) {
    const Bracket b = WidestBracket(f_, y.size());
    EXPECT_LE(b.lo, u);
    EXPECT_GE(b.hi, u * (1 - 1e-7));
  });
}

TEST_P(ThresholdTest, RootLiesInTheHistogramsBracket) {
  ForRandomRows([&](const std::vector<float>& y, double u) {
    Histogram h;
    Clear(h);
    for (float x : y) {
      if (x > -1) h.count[BinOf(x)]++;
    }
    const Bracket b = BracketFromHistogram(f_, h, WidestBracket(f_, y.size()));
    EXPECT_LE(b.lo, u * (1 + 1e-6)) << y.size();
    EXPECT_GE(b.hi, u * (1 - 1e-6)) << y.size();
  });
}

TEST_P(ThresholdTest, ThresholdOfASubsetIsAFloor) {
  ForRandomRows([&](const std::vector<float>& y, double u) {
    // Drop every third key, the maximum stays: tau may only fall, so the gap may only grow.
    std::vector<float> subset;
    for (size_t j = 0; j < y.size(); j++) {
      if (j % 3 || y[j] == 0) subset.push_back(y[j]);
    }
    EXPECT_GE(ExactGap(subset, GetParam()), u * (1 - 1e-9));
  });
}

TEST_P(ThresholdTest, NormNewtonNeverPassesTheRoot) {
  ForRandomRows([&](const std::vector<float>& y, double u) {
    float x = 1;
    for (int step = 0; step < 6; step++) {
      x = NormNewton(f_, Sums(f_, y, x), x);
      ASSERT_GE(x, u * (1 - 1e-4)) << "step " << step;
    }
  });
}

TEST_P(ThresholdTest, GuardedStepsConverge) {
  int64_t steps = 0, rows = 0;
  ForRandomRows([&](const std::vector<float>& y, double u) {
    Histogram h;
    Clear(h);
    for (float x : y) {
      if (x > -1) h.count[BinOf(x)]++;
    }
    Bracket b = BracketFromHistogram(f_, h, WidestBracket(f_, y.size()));
    float x = b.hi;
    PowerSums sums = Sums(f_, y, x);
    int step = 0;
    for (; step < kMaxSteps && std::fabs(sums.s0 - 1) > kResidualTolerance; step++) {
      const float next = NextGap(f_, sums, x, b);
      if (next == x) break;
      x = next;
      sums = Sums(f_, y, x);
    }
    EXPECT_NEAR(x, u, 1e-5 * std::max(u, 1e-2));
    steps += step;
    rows++;
  });
  EXPECT_LT(static_cast<double>(steps) / rows, 6);
}

TEST(WeightTest, ClosedFormsEqualThePower) {
  for (float alpha : {1.5f, 2.0f}) {
    WeightFunction closed = MakeWeightFunction(alpha), general = closed;
    general.form = Form::kGeneral;
    for (float z : {0.0f, 1e-6f, 0.1f, 0.5f, 1.0f}) {
      EXPECT_NEAR(Weight(closed, z), Weight(general, z), 1e-7);
    }
  }
}

}  // namespace
}  // namespace tauserve::entmax
