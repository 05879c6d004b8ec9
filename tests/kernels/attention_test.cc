// Attention on fresh random inputs, on every instruction set of the machine or on its GPU, against the oracle.
// TAUSERVE_SEED runs a seed that was printed before.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>
#include <tuple>

#include "tests/kernels/attention_case.h"
#include "tests/kernels/test_device.h"

namespace tauserve {
namespace {

uint32_t FreshSeed() {
  static const uint32_t seed = [] {
    const char* given = std::getenv("TAUSERVE_SEED");
    const uint32_t s = given ? std::strtoul(given, nullptr, 10) : std::random_device()();
    printf("seed %u\n", s);
    return s;
  }();
  return seed;
}

class AttentionTest : public testing::TestWithParam<std::tuple<std::string, DataType>> {
 protected:
  DataType kv_type() const { return std::get<1>(GetParam()); }
  // float32: rounding of the scores, which grows with their size. bfloat16: the oracle sees the same rounded inputs.
  double tolerance(const AttentionCase& c) const {
    return kv_type() == DataType::kFloat32 ? 1e-5 * std::max(1.0f, c.sigma / 2) : 4e-3;
  }
  CaseResult Run(const AttentionCase& c) {
    auto backend = MakeTestBackend(std::get<0>(GetParam()), kv_type());
    CaseResult result = RunCase(*backend, c, kv_type(), FreshSeed());
    EXPECT_LE(result.worst_error, tolerance(c));
    return result;
  }
};

INSTANTIATE_TEST_SUITE_P(AllTargets, AttentionTest,
                         testing::Combine(testing::ValuesIn(TestTargets()),
                                          testing::ValuesIn(TestKvTypes())),
                         [](const auto& info) { return TargetName(info.param); });

TEST_P(AttentionTest, HeadDimsAndGroups) {
  for (int head_dim : {32, 48, 64, 80, 96, 128, 192, 256}) {
    for (int group : {1, 2, 4, 8}) {
      SCOPED_TRACE(testing::Message() << "head_dim " << head_dim << " group " << group);
      AttentionCase c;
      c.head_dim = head_dim;
      c.num_kv_heads = 2;
      c.num_heads = 2 * group;
      c.steps = {{67, 1, 5}};
      Run(c);
    }
  }
}

TEST_P(AttentionTest, EveryAlpha) {
  for (float alpha : {1.0f, 1.1f, 1.25f, 1.4f, 1.5f, 1.6f, 1.75f, 1.9f, 2.0f}) {
    for (float sigma : {0.5f, 2.0f, 8.0f}) {
      SCOPED_TRACE(testing::Message() << "alpha " << alpha << " sigma " << sigma);
      AttentionCase c;
      c.alpha = {alpha};
      c.sigma = sigma;
      c.steps = {{200, 1, 1}};
      Run(c);
    }
  }
}

TEST_P(AttentionTest, HeadsOfDifferentAlphaSlopeAndScale) {
  AttentionCase c;
  c.num_heads = 8;
  c.num_kv_heads = 2;
  c.alpha = {1.5f, 1.0f, 2.0f, 1.3f};
  c.slope = {1.0f, 0.0f, 0.125f};
  c.query_scale = true;
  c.steps = {{130, 1, 3, 1}, {0, 70, 1, 1}};
  Run(c);
}

TEST_P(AttentionTest, OddLengthsAndPageEdges) {
  for (int tokens : {1, 2, 3, 15, 16, 17, 63, 64, 65, 127, 128, 129, 200}) {
    SCOPED_TRACE(testing::Message() << tokens << " tokens");
    AttentionCase c;
    c.alpha = {1.5f, 1.0f};
    c.steps = {{tokens}};
    Run(c);
  }
}

TEST_P(AttentionTest, SlidingWindow) {
  for (int window : {1, 2, 63, 64, 65, 100}) {
    SCOPED_TRACE(testing::Message() << "window " << window);
    AttentionCase c;
    c.alpha = {1.5f, 1.0f, 2.0f};
    c.num_heads = 6;
    c.num_kv_heads = 3;
    c.sliding_window = window;
    c.slope = {0.0f, 0.25f};
    c.steps = {{150, 1, 37, 1}};
    Run(c);
  }
}

TEST_P(AttentionTest, EveryKeyIsVisibleWhereNotCausal) {
  AttentionCase c;
  c.causal = false;
  c.alpha = {1.5f, 1.0f, 1.8f};
  c.num_heads = 6;
  c.num_kv_heads = 3;
  c.steps = {{300, 1, 40, 7}, {0, 129, 0, 0}, {5, 0, 0, 200}};
  Run(c);
}

TEST_P(AttentionTest, ManyRaggedSequencesInOneStep) {
  AttentionCase c;
  c.steps = {{1, 1, 1}, {100, 1, 1}, {0, 65, 1}, {64, 64, 64}, {3, 0, 130}, {17, 1, 0}};
  c.slope = {0.5f, 0.0f};
  c.alpha = {1.5f, 1.5f, 1.0f, 1.7f};
  Run(c);
}

// The same sequence in one piece, in odd chunks, and token by token.
TEST_P(AttentionTest, ChunksEqualOneShotAndDecodeEqualsPrefill) {
  AttentionCase one;
  one.alpha = {1.5f, 1.0f};
  one.slope = {0.0f, 0.0f, 0.5f};
  one.num_heads = 6;
  one.num_kv_heads = 3;
  one.steps = {{190}};
  AttentionCase chunks = one, tokens = one;
  chunks.steps = {{1, 62, 3, 64, 7, 53}};
  tokens.steps = {std::vector<int>(190, 1)};
  const CaseResult a = Run(one), b = Run(chunks), d = Run(tokens);
  ASSERT_EQ(a.out[0].size(), b.out[0].size());
  for (size_t i = 0; i < a.out[0].size(); i++) {
    // bfloat16: the next number, where two kernels round differently.
    const double limit =
        kv_type() == DataType::kFloat32 ? 2e-5 : 8e-3 * std::max(1.0f, std::abs(a.out[0][i]));
    ASSERT_NEAR(a.out[0][i], b.out[0][i], limit) << i;
    ASSERT_NEAR(a.out[0][i], d.out[0][i], limit) << i;
  }
}

TEST_P(AttentionTest, ResultsAreTheSameBitsForAnyNumberOfThreads) {
  AttentionCase c;
  c.num_heads = 4;
  c.num_kv_heads = 2;
  c.alpha = {1.5f, 1.5f, 1.0f, 1.3f};
  c.slope = {0.0f, 0.25f};
  c.steps = {{1300, 1, 1}, {0, 200, 1}, {40, 3, 1}};
  c.first_checked = 1290;
  std::vector<std::vector<float>> first;
  for (int threads : {1, 2, 3, 7}) {
    auto backend = MakeTestBackend(std::get<0>(GetParam()), kv_type(), threads);
    const CaseResult result = RunCase(*backend, c, kv_type(), FreshSeed());
    if (threads == 1) first = result.out;
    EXPECT_TRUE(result.out == first) << threads << " threads";
  }
}

// Lengths at which floors rise many times and candidates are compacted.
TEST_P(AttentionTest, LongerSequence) {
  for (float sigma : {1.0f, 4.0f}) {
    AttentionCase c;
    c.num_heads = 2;
    c.num_kv_heads = 1;
    c.sigma = sigma;
    c.alpha = {1.5f, 1.25f};
    c.steps = {{1500, 1, 1, 30}};
    Run(c);
  }
}

TEST_P(AttentionTest, DistanceBoundLeavesPagesUnread) {
  AttentionCase c;
  c.num_heads = 2;
  c.num_kv_heads = 1;
  c.slope = {1.0f, 0.5f};
  c.steps = {{8000, 1}};
  c.first_checked = 7800;
  const CaseResult result = Run(c);
  EXPECT_LT(result.stats.pages_read * 4, result.stats.pages_considered);
  EXPECT_LT(result.stats.keys_scored * 4, result.stats.keys_considered);
}

TEST(CpuBackendTest, RefusesUnknownInstructionSet) {
  setenv("TAUSERVE_CPU_ISA", "mmx", 1);
  BackendOptions options;
  options.device = "cpu";
  const auto backend = CreateBackend(options);
  unsetenv("TAUSERVE_CPU_ISA");
  ASSERT_FALSE(backend.ok());
  EXPECT_THAT(std::string(backend.status().message()), testing::HasSubstr("mmx"));
}

}  // namespace
}  // namespace tauserve
