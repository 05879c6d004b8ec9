// Lengths against the distributions that they are to have, with fixed seeds.
#include "clients/cpp/bench/length_distribution.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace tauserve::bench {
namespace {

using testing::Each;
using testing::HasSubstr;

constexpr int kCount = 20000;
constexpr uint32_t kNoLimit = 1 << 30;

std::vector<uint32_t> Draw(const char* text, uint32_t max = kNoLimit) {
  const auto distribution = LengthDistribution::Parse(text);
  EXPECT_TRUE(distribution.ok()) << distribution.status();
  std::mt19937_64 random(1);
  std::vector<uint32_t> lengths(kCount);
  for (uint32_t& length : lengths) length = distribution->Sample(random, max);
  return lengths;
}

void ExpectMoments(const std::vector<uint32_t>& lengths, double mean, double stddev,
                   double kurtosis) {
  double sum = 0, squares = 0;
  for (const uint32_t length : lengths) sum += length;
  for (const uint32_t length : lengths) squares += std::pow(length - sum / kCount, 2);
  EXPECT_NEAR(sum / kCount, mean, 5 * stddev / std::sqrt(kCount));
  // The relative error of a variance is sqrt((kurtosis - 1) / n), of its root half of that.
  EXPECT_NEAR(std::sqrt(squares / kCount) / stddev, 1, 2.5 * std::sqrt((kurtosis - 1) / kCount));
}

TEST(LengthDistributionTest, Fixed) { EXPECT_THAT(Draw("128"), Each(128)); }

TEST(LengthDistributionTest, UniformTakesAllAlike) {
  const std::vector<uint32_t> lengths = Draw("uniform:10:19");
  double chi_square = 0;
  for (uint32_t length = 10; length <= 19; length++) {
    const double count = std::count(lengths.begin(), lengths.end(), length);
    chi_square += std::pow(count - kCount / 10.0, 2) / (kCount / 10.0);
  }
  EXPECT_LT(chi_square, 27.9) << "9 degrees of freedom: by chance with probability 0.001";
  EXPECT_THAT(lengths, Each(testing::AllOf(testing::Ge(10), testing::Le(19))));
  EXPECT_THAT(Draw("uniform:5:5"), Each(5));
}

TEST(LengthDistributionTest, NormalHasMeanAndDeviation) {
  ExpectMoments(Draw("normal:1000:100"), 1000, 100, 3);
  EXPECT_THAT(Draw("normal:77:0"), Each(77));
}

TEST(LengthDistributionTest, LognormalHasMeanAndDeviationOfTheLengthItself) {
  const std::vector<uint32_t> lengths = Draw("lognormal:1000:300");
  // Its kurtosis, with q = exp of the logarithm's variance, is q⁴ + 2q³ + 3q² - 3.
  const double q = 1 + 0.3 * 0.3;
  ExpectMoments(lengths, 1000, 300, std::pow(q, 4) + 2 * std::pow(q, 3) + 3 * q * q - 3);
  // And it is skewed: half of it is under mean / sqrt(q).
  const double below = std::count_if(lengths.begin(), lengths.end(),
                                     [&](uint32_t n) { return n < 1000 / std::sqrt(q); });
  EXPECT_NEAR(below / kCount, 0.5, 2.5 / std::sqrt(kCount));
}

TEST(LengthDistributionTest, StaysWithinOneAndTheMost) {
  const std::vector<uint32_t> lengths = Draw("normal:10:100", 50);
  EXPECT_THAT(lengths, Each(testing::AllOf(testing::Ge(1), testing::Le(50))));
  EXPECT_GT(std::count(lengths.begin(), lengths.end(), 1u), kCount / 4);
  EXPECT_GT(std::count(lengths.begin(), lengths.end(), 50u), kCount / 4);
}

TEST(LengthDistributionTest, KnowsItsLargest) {
  EXPECT_EQ(LengthDistribution::Parse("128")->largest(), 128);
  EXPECT_EQ(LengthDistribution::Parse("uniform:1:64")->largest(), 64);
  EXPECT_FALSE(LengthDistribution::Parse("normal:1:64")->largest().has_value());
  EXPECT_FALSE(LengthDistribution::Parse("lognormal:1:64")->largest().has_value());
}

TEST(LengthDistributionTest, RefusesWithTheWordThatIsWrong) {
  const std::pair<const char*, const char*> wrong[] = {
      {"", "'' is no number"},
      {"0", "0 is under 1"},
      {"1.5", "not whole"},
      {"-3", "-3 is not in [0, 1073741824]"},
      {"many", "'many' is no number"},
      {"uniform:9:3", "the least first"},
      {"uniform:1", "two numbers"},
      {"normal:5:nan", "'nan' is no number"},
      {"zipf:1:2", "'zipf' is no distribution"},
      {"lognormal:0:2", "0 is under 1"},
  };
  for (const auto& [text, why] : wrong) {
    const auto refused = LengthDistribution::Parse(text);
    ASSERT_FALSE(refused.ok()) << text;
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr(why));
  }
}

}  // namespace
}  // namespace tauserve::bench
