#include "server/sampling/logprobs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

namespace tauserve {
namespace {

TEST(LogprobTest, EqualsTheLogSoftmax) {
  std::mt19937 random(8);
  std::normal_distribution<float> normal(0, 4);
  std::vector<float> logits(300);
  for (float& x : logits) x = normal(random);
  double sum = 0;
  for (float x : logits) sum += std::exp(static_cast<double>(x));
  std::vector<int32_t> order(300);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  for (int rank : {1, 2, 17, 300}) {
    const int32_t token = order[rank - 1];
    const TokenLogprob l = LogprobOf(logits, token, 5);
    EXPECT_EQ(l.token, token);
    EXPECT_EQ(l.rank, rank);
    EXPECT_NEAR(l.logprob, logits[token] - std::log(sum), 1e-5);
    ASSERT_EQ(l.top.size(), 5u);
    for (int i = 0; i < 5; i++) {
      EXPECT_EQ(l.top[i].first, order[i]);
      EXPECT_NEAR(l.top[i].second, logits[order[i]] - std::log(sum), 1e-5);
    }
  }
  EXPECT_TRUE(LogprobOf(logits, 0, 0).top.empty());
}

TEST(LogprobTest, EqualLogitsRankById) {
  const std::vector<float> logits(5, 2.0f);
  const TokenLogprob l = LogprobOf(logits, 3, 2);
  EXPECT_EQ(l.rank, 4);
  ASSERT_EQ(l.top.size(), 2u);
  EXPECT_EQ(l.top[0].first, 0);
  EXPECT_EQ(l.top[1].first, 1);
  EXPECT_NEAR(l.logprob, -std::log(5.0), 1e-6);
}

TEST(LogprobTest, ExtremesAndShortVocabularies) {
  const std::vector<float> logits = {1e30f, -std::numeric_limits<float>::infinity(), -1e30f};
  const TokenLogprob l = LogprobOf(logits, 0, 20);
  EXPECT_EQ(l.logprob, 0);
  ASSERT_EQ(l.top.size(), 3u);
  EXPECT_EQ(l.top[1].first, 2);
  EXPECT_EQ(l.top[2].second, -std::numeric_limits<float>::infinity());
}

}  // namespace
}  // namespace tauserve
