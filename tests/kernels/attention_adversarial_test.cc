// Inputs made to break a threshold search: dense supports, ties, huge and tiny scores.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <tuple>

#include "tests/kernels/attention_case.h"
#include "tests/kernels/test_device.h"

namespace tauserve {
namespace {

class AdversarialTest : public testing::TestWithParam<std::tuple<std::string, DataType>> {
 protected:
  DataType kv_type() const { return std::get<1>(GetParam()); }
  CaseResult Run(AttentionCase c, double factor = 1) {
    auto backend = MakeTestBackend(std::get<0>(GetParam()), kv_type());
    CaseResult result = RunCase(*backend, c, kv_type(), 7);
    EXPECT_LE(result.worst_error, factor * (kv_type() == DataType::kFloat32 ? 1e-5 : 4e-3));
    return result;
  }
  static AttentionCase Small() {
    AttentionCase c;
    c.num_heads = 2;
    c.num_kv_heads = 1;
    c.alpha = {1.5f, 2.0f};
    c.steps = {{300, 1, 1}};
    return c;
  }
};

INSTANTIATE_TEST_SUITE_P(AllTargets, AdversarialTest,
                         testing::Combine(testing::ValuesIn(TestTargets()),
                                          testing::ValuesIn(TestKvTypes())),
                         [](const auto& info) { return TargetName(info.param); });

void FillAll(float* x, int n, float value) { std::fill(x, x + n, value); }

TEST_P(AdversarialTest, AllScoresEqual) {
  for (float alpha : {1.0f, 1.1f, 1.5f, 2.0f}) {
    AttentionCase c = Small();
    c.alpha = {alpha};
    c.fill = [](int, int, float* q, float* k, float*) {
      FillAll(q, 128, 1);
      FillAll(k, 64, 0.5f);
    };
    const CaseResult result = Run(c);
    EXPECT_EQ(result.stats.support, result.stats.keys_considered);
  }
}

TEST_P(AdversarialTest, AllScoresZero) {
  AttentionCase c = Small();
  c.fill = [](int, int, float* q, float* k, float*) {
    FillAll(q, 128, 0);
    FillAll(k, 64, 0);
  };
  Run(c);
}

// More equal scores than a row has room for: the dense path, with an odd mix of wide and narrow rows in a tile.
TEST_P(AdversarialTest, SupportLargerThanTheHitBuffer) {
  AttentionCase c;
  c.num_heads = 2;
  c.num_kv_heads = 1;
  c.alpha = {1.5f, 1.3f};
  c.steps = {{4500, 1}};
  c.first_checked = 4350;
  std::mt19937 random(3);
  c.fill = [&](int, int token, float* q, float* k, float*) {
    for (int h = 0; h < 2; h++) {
      for (int d = 0; d < 64; d++) q[h * 64 + d] *= token % 3 == 0 ? 1.0f : 1e-3f;
    }
    (void)k;
  };
  const CaseResult result = Run(c);
  if (OnGpu()) return;  // the generic kernel has no buffer
  EXPECT_GT(result.stats.wide_rows, 100);
  EXPECT_LT(result.stats.wide_rows, result.stats.rows);
}

TEST_P(AdversarialTest, OneHugeScore) {
  for (float huge : {1e2f, 1e4f, 1e6f}) {
    AttentionCase c = Small();
    c.fill = [huge](int, int token, float* q, float* k, float*) {
      q[0] = q[64] = 1;
      k[0] = token == 5 ? huge : k[0];
    };
    Run(c);
  }
}

// All keys far below zero and far above it: only differences count.
TEST_P(AdversarialTest, LargeCommonOffset) {
  for (float offset : {-256.0f, 256.0f}) {
    AttentionCase c = Small();
    c.fill = [offset](int, int, float* q, float* k, float*) {
      q[0] = q[64] = 8;
      k[0] = offset;
    };
    // A raw score of 2048 is rounded to 2^-13 in float32, a hundred times more coarsely than one of order 10.
    Run(c, 100);
  }
}

TEST_P(AdversarialTest, TwoEqualMaxima) {
  AttentionCase c = Small();
  c.fill = [](int, int token, float* q, float* k, float*) {
    FillAll(q, 128, 1);
    FillAll(k, 64, token == 3 || token == 250 ? 4.0f : -1.0f);
  };
  Run(c);
}

TEST_P(AdversarialTest, ScoresOnTheThreshold) {
  // Sparsemax of (1, 0, 0, ...): tau is exactly 0, every other key lies on it.
  AttentionCase c = Small();
  c.alpha = {2.0f};
  c.scale = 1;
  c.fill = [](int, int token, float* q, float* k, float*) {
    FillAll(q, 128, 0);
    FillAll(k, 64, 0);
    q[0] = q[64] = 1;
    k[0] = token == 0 ? 1.0f : 0.0f;
  };
  Run(c);
}

TEST_P(AdversarialTest, DenormalInputs) {
  AttentionCase c = Small();
  c.fill = [](int, int, float* q, float* k, float*) {
    for (int d = 0; d < 128; d++) q[d] *= 1e-39f;
    for (int d = 0; d < 64; d++) k[d] *= 1e-39f;
  };
  Run(c);
}

// Each new key beats the last: the floor rises at every step of any order.
TEST_P(AdversarialTest, RisingAndFallingScores) {
  for (float step : {-0.05f, 0.05f, 3.0f}) {
    AttentionCase c = Small();
    c.fill = [step](int, int token, float* q, float* k, float*) {
      FillAll(q, 128, 0);
      FillAll(k, 64, 0);
      q[0] = q[64] = 1;
      k[0] = step * token;
    };
    Run(c, 5);
  }
}

TEST_P(AdversarialTest, HugeSlope) {
  AttentionCase c = Small();
  c.slope = {1000.0f};
  Run(c);
}

}  // namespace
}  // namespace tauserve
