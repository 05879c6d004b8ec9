// Gradients against the double-precision oracle, and the oracle against finite differences of itself.
#include "kernels/reference/attention_gradient.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "kernels/cpu/attention_function.h"
#include "tests/kernels/gradient_case.h"
#include "tests/kernels/test_device.h"

namespace tauserve {
namespace {

double Tolerance(DataType type) { return type == DataType::kFloat32 ? 1e-4 : 1e-2; }

class GradientTest : public testing::TestWithParam<DataType> {
 protected:
  void Check(const GradientCase& c, uint32_t seed = 5, double factor = 1) {
    const double error = GradientError(c, GetParam(), seed);
    EXPECT_LE(error, factor * Tolerance(GetParam())) << "seed " << seed << ": " << c.ToString();
    worst_ = std::max(worst_, error);
  }
  void TearDown() override { RecordProperty("worst_error", std::to_string(worst_)); }

  double worst_ = 0;
};

INSTANTIATE_TEST_SUITE_P(AllTypes, GradientTest,
                         testing::Values(DataType::kFloat32, DataType::kBFloat16),
                         [](const auto& info) { return NameOf(info.param); });

TEST_P(GradientTest, FreshRandomProblems) {
  std::random_device device;
  std::mt19937 random(device());
  auto choose = [&](const auto& from) { return from[random() % from.size()]; };
  for (int i = 0; i < 6; i++) {
    GradientCase c;
    const int group = choose(std::vector<int>{1, 2, 3, 4, 8});
    c.num_kv_heads = group > 3 ? 1 : 1 + random() % 2;
    c.num_heads = group * c.num_kv_heads;
    c.head_dim = choose(std::vector<int>{32, 48, 64, 80, 128, 256});
    c.alpha = {choose(std::vector<float>{1.0f, 1.25f, 1.5f, 1.7f, 2.0f}), 1.5f};
    c.sigma = choose(std::vector<float>{0.3f, 2.0f, 4.0f});
    c.causal = random() % 4 != 0;
    if (c.causal && random() % 2) c.slope = {0.05f, 0.0f, 1.0f};
    if (c.causal && random() % 3 == 0) c.sliding_window = 1 + random() % 150;
    c.lengths.clear();
    for (int s = 1 + random() % 3; s > 0; s--) {
      const int queries = 1 + random() % 130;
      c.lengths.push_back({queries, queries + (random() % 2 ? random() % 70 : 0)});
    }
    Check(c, random());
  }
}

// Supports beyond what a row's hits may be: products of whole tiles, with narrow rows among the wide ones.
TEST_P(GradientTest, WideAndNarrowRows) {
  GradientCase c;
  c.alpha = {1.5f, 1.2f};
  c.lengths = {{70, 700}};
  c.fill_query = [](int token, int, float* q) {
    for (int d = 0; d < 64; d++) q[d] *= token % 3 == 0 ? 2.0f : 1e-3f;
  };
  Check(c);
}

TEST_P(GradientTest, AllScoresEqual) {
  for (float alpha : {1.0f, 1.1f, 1.5f, 2.0f}) {
    GradientCase c;
    c.alpha = {alpha};
    c.lengths = {{130, 130}};
    c.fill_query = [](int, int, float* q) { std::fill_n(q, 64, 1.0f); };
    c.fill_key = [](int, int, float* k, float*) { std::fill_n(k, 64, 0.5f); };
    Check(c);
  }
}

// The other keys lie far below: two weights of a half.
TEST_P(GradientTest, TwoEqualMaxima) {
  for (float alpha : {1.0f, 1.5f, 2.0f}) {
    GradientCase c;
    c.alpha = {alpha};
    c.fill_query = [](int, int, float* q) { std::fill_n(q, 64, 1.0f); };
    c.fill_key = [](int token, int, float* k, float*) {
      std::fill_n(k, 64, token == 0 || token == 3 ? 4.0f : -4.0f);
    };
    Check(c);
  }
}

TEST_P(GradientTest, OneKey) {
  GradientCase c;
  c.alpha = {1.5f, 1.0f};
  c.lengths = {{1, 1}, {1, 1}};
  const GradientCase all_own = [&] {
    GradientCase w = c;
    w.lengths = {{90, 90}};
    w.sliding_window = 1;
    return w;
  }();
  for (const GradientCase& one : {c, all_own}) {
    Check(one);
    // No choice: only the values get a gradient.
    const Gradients g = RunGradients(one, GetParam(), TestTargets()[0], 1, 5);
    for (float x : g.dq) EXPECT_NEAR(x, 0, 1e-6);
    for (float x : g.dk) EXPECT_NEAR(x, 0, 1e-6);
  }
}

// Scores in the thousands, exact in float32: differences decide. In dq, gradients of the scores, which sum to zero, are
// multiplied by 4096 all of them.
TEST_P(GradientTest, HugeScores) {
  GradientCase c;
  c.scale = 1;
  c.fill_query = [](int, int, float* q) {
    std::fill_n(q, 64, 0.0f);
    q[0] = 1;
    q[1] = 1;
  };
  c.fill_key = [](int token, int, float* k, float*) {
    k[0] = 4096;
    k[1] = static_cast<float>(token % 7) / 4;
  };
  Check(c, /*seed=*/5, /*factor=*/10);
}

TEST_P(GradientTest, NegativeScale) {
  GradientCase c;
  c.scale = -0.2f;
  c.alpha = {1.5f, 1.0f};
  Check(c);
}

// Long enough to be worked on in parts, whose sums are added.
TEST_P(GradientTest, ThreadsDoNotChangeABit) {
  GradientCase c;
  c.alpha = {1.5f, 1.0f};
  c.lengths = {{1100, 1100}, {3, 40}};
  for (const std::string& isa : TestTargets()) {
    const Gradients one = RunGradients(c, GetParam(), isa, 1, 9);
    const Gradients three = RunGradients(c, GetParam(), isa, 3, 9);
    EXPECT_EQ(one.dq, three.dq);
    EXPECT_EQ(one.dk, three.dk);
    EXPECT_EQ(one.dv, three.dv);
  }
}

TEST(AttentionFunctionTest, RefusesWhatDoesNotFit) {
  auto function = cpu::AttentionFunction::Create(1, DataType::kFloat32);
  ASSERT_TRUE(function.ok());
  AttentionSpec good;
  good.num_heads = good.num_kv_heads = 1;
  good.head_dim = 64;
  good.alpha = {1.5f};
  good.alibi_slope = {0.0f};
  std::vector<AttentionSpec> bad(6, good);
  bad[0].head_dim = 40;
  bad[1].alpha = {2.5f};
  bad[2].alpha = {};
  bad[3].num_kv_heads = 2;
  bad[4].causal = false;
  bad[4].sliding_window = 3;
  bad[5].scale = std::nanf("");
  for (const AttentionSpec& spec : bad) {
    EXPECT_EQ((*function)->Forward(spec, {}).code(), absl::StatusCode::kInvalidArgument);
  }
  cpu::AttentionSequence sequence;
  sequence.queries = 3;
  sequence.keys = 2;
  EXPECT_EQ((*function)->Backward(good, {&sequence, 1}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE((*function)->Forward(good, {}).ok());
  EXPECT_FALSE(cpu::AttentionFunction::Create(-1, DataType::kFloat32).ok());
  EXPECT_FALSE(cpu::AttentionFunction::Create(1, DataType::kFloat16).ok());
}

// sum_d dout[d] * out[d] as a function of one number among q, keys and values.
TEST(ReferenceGradientTest, AgreesWithFiniteDifferences) {
  std::random_device device;
  std::mt19937 random(device());
  std::normal_distribution<double> normal;
  constexpr int kKeys = 9, kDim = 4;
  for (double alpha : {1.0, 1.25, 1.5, 1.75}) {
    std::vector<double> x(kDim + 2 * kKeys * kDim), dout(kDim);
    for (double& y : x) y = normal(random);
    for (double& y : dout) y = normal(random);
    reference::Row row;
    row.q = x.data();
    row.keys = x.data() + kDim;
    row.values = row.keys + kKeys * kDim;
    row.head_dim = kDim;
    row.first = 1;
    row.last = kKeys;
    row.score_scale = 0.7;
    row.alibi_slope = 0.1;
    row.alpha = alpha;
    auto loss = [&] {
      const auto out = reference::Attend(row).out;
      double sum = 0;
      for (int d = 0; d < kDim; d++) sum += dout[d] * out[d];
      return sum;
    };
    std::vector<double> expected(x.size());
    double* dk = expected.data() + kDim;
    const auto dq =
        reference::Backward(row, reference::Attend(row), dout.data(), dk, dk + kKeys * kDim);
    std::copy(dq.begin(), dq.end(), expected.begin());
    for (size_t i = 0; i < x.size(); i++) {
      constexpr double kStep = 1e-6;
      const double at = x[i];
      x[i] = at + kStep;
      const double above = loss();
      x[i] = at - kStep;
      const double below = loss();
      x[i] = at;
      EXPECT_NEAR((above - below) / (2 * kStep), expected[i], 2e-5)
          << "alpha " << alpha << ", " << i;
    }
  }
}

}  // namespace
}  // namespace tauserve
