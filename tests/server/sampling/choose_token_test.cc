// Tokens from the largest logits against tokens from whole rows: the same wherever the former decide, and they decide
// where they should.
#include "server/sampling/choose_token.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "server/sampling/logits_query.h"
#include "tests/server/sampling/few_logits.h"

namespace tauserve {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class ChooseTokenTest : public testing::Test {
 protected:
  void SetUp() override {
    seed_ = std::random_device()();
    random_.seed(seed_);
  }
  bool Chance(int one_in) { return random_() % one_in == 0; }
  float Between(float lo, float hi) {
    return std::uniform_real_distribution<float>(lo, hi)(random_);
  }

  std::vector<float> Row(int n) {
    std::vector<float> row(n);
    const float sigma = std::exp2(Between(-6, 3));
    std::normal_distribution<float> normal(0, sigma);
    for (float& x : row) x = normal(random_);
    const int kind = random_() % 8;
    if (kind == 0) {  // ties, many of them at any bound
      for (float& x : row) x = std::round(x * 2 / sigma) * sigma / 2;
    } else if (kind == 1) {
      for (float& x : row) x = 0.25f;
    } else if (kind == 2) {
      row[random_() % n] += Between(0, 20) * sigma;
    } else if (kind == 3) {
      for (float& x : row) x = Chance(3) ? x : -kInfinity;
    } else if (kind == 4) {
      const float kept = row[0];
      row.assign(n, -kInfinity);
      row[random_() % n] = kept;
    } else if (kind == 5) {  // as a language model's: a few far above the many
      for (float& x : row) x += Chance(20) ? 4 * sigma : 0;
    }
    return row;
  }

  SamplingParams Params(int n) {
    SamplingParams p;
    p.temperature = Chance(6) ? 0 : Chance(2) ? 1 : Chance(20) ? 1e-40f : Between(0.05f, 3);
    if (Chance(3)) p.top_k = 1 + random_() % (Chance(2) ? 5 : n);
    if (Chance(2)) p.top_p = Chance(8) ? 1e-7f : Between(0.01f, 1);
    if (Chance(3)) p.min_p = Chance(8) ? 1 : Between(0, 1) * Between(0, 1);
    if (Chance(8)) p.typical_p = Between(0.01f, 1);
    if (Chance(8)) p.repetition_penalty = Between(Chance(4) ? 0.5f : 1, 2);
    if (Chance(8)) p.presence_penalty = Between(Chance(4) ? -2 : 0, 2);
    if (Chance(8)) p.frequency_penalty = Between(Chance(4) ? -2 : 0, 2);
    for (int i = Chance(8) ? 3 : 0; i > 0; i--) {
      p.logit_bias[random_() % n] = Between(-20, Chance(4) ? 20 : 0);
    }
    if (Chance(20)) p.allowed_token_ids = {static_cast<int32_t>(random_() % n)};
    return p;
  }
  std::vector<int32_t> SomeTokens(int n, int count) {
    std::vector<int32_t> tokens(count);
    for (int32_t& t : tokens) t = random_() % n;
    return tokens;
  }

  // The device's sums, with any error that they may have.
  void Find(absl::Span<const float> row, const LogitsQuery& query, int most) {
    top_->sum = top_->unit_sum = std::nan("");  // what is not asked for is not there
    FindFewLogits(row, query, most, top_.get());
    top_->sum *= 1 + Between(-1, 1) * (kTopLogitsSumError - 1e-7);
    top_->unit_sum *= 1 + Between(-1, 1) * (kTopLogitsSumError - 1e-7);
  }

  uint32_t seed_;
  std::mt19937 random_;
  std::unique_ptr<TopLogits> top_ = std::make_unique<TopLogits>();
};

// Small rows of which few logits are known, so that every bound is met often.
TEST_F(ChooseTokenTest, FewLogitsGiveTheWholeRowsTokens) {
  SCOPED_TRACE(testing::Message() << "seed " << seed_);
  int decided = 0, asked = 0;
  for (int round = 0; round < 20000; round++) {
    const int n = 1 + random_() % 200;
    const std::vector<float> row = Row(n);
    SamplingParams params = Params(n);
    OutputParams output;
    if (Chance(3)) output.top_logprobs = random_() % 8;
    const std::vector<int32_t> prompt = SomeTokens(n, 1 + random_() % 9);
    const std::vector<int32_t> so_far = SomeTokens(n, random_() % 9);
    std::vector<int32_t> forbidden;
    if (Chance(4)) forbidden = SomeTokens(n, 1 + random_() % 3);
    const int32_t best = std::max_element(row.begin(), row.end()) - row.begin();
    if (Chance(8)) forbidden.push_back(best);
    for (int i = Chance(6) ? 3 : 0; i > 0; i--) {
      const int end = std::min<int>(so_far.size(), random_() % 4);
      params.bad_words.emplace_back(so_far.end() - end, so_far.end());
      params.bad_words.back().push_back(i == 1 ? best : random_() % n);
    }
    SampleInput whole;
    whole.prompt = prompt;
    whole.output = so_far;
    whole.forbidden = forbidden;
    SampleInput few = whole;
    whole.logits = row;
    few.top = top_.get();
    const LogitsQuery query = QueryFor(params, output);
    Find(row, query, 1 + random_() % 60);
    Sampler sampler(n), other_sampler(n);
    for (int draw = 0; draw < 4; draw++) {
      params.seed = random_();
      const auto expected = ChooseToken(sampler, params, output, whole);
      const auto got = ChooseToken(other_sampler, params, output, few);
      asked += !query.whole;
      if (got.ok() && !*got) continue;
      ASSERT_FALSE(got.ok() && query.whole) << "round " << round;
      decided++;
      ASSERT_EQ(got.status(), expected.status());
      if (!got.ok()) continue;
      ASSERT_EQ((*got)->token, (*expected)->token) << "round " << round;
      ASSERT_EQ((*got)->logprob.has_value(), output.top_logprobs.has_value());
      if (!output.top_logprobs) continue;
      const TokenLogprob &a = *(*expected)->logprob, &b = *(*got)->logprob;
      ASSERT_EQ(a.token, b.token);
      ASSERT_EQ(a.rank, b.rank);
      ASSERT_NEAR(a.logprob, b.logprob, 2e-6 * (1 + std::fabs(a.logprob)));
      ASSERT_EQ(a.top.size(), b.top.size());
      for (size_t i = 0; i < a.top.size(); i++) {
        ASSERT_EQ(a.top[i].first, b.top[i].first);
        ASSERT_NEAR(a.top[i].second, b.top[i].second, 2e-6 * (1 + std::fabs(b.top[i].second)));
      }
    }
  }
  EXPECT_GT(decided, asked / 2) << "of " << asked;
}

// Rows of a real size, and what a device finds: common parameters are decided nearly always.
TEST_F(ChooseTokenTest, CommonParametersNeedNoWholeRows) {
  SCOPED_TRACE(testing::Message() << "seed " << seed_);
  constexpr int kVocab = 30000, kRows = 100;
  const auto with = [](float temperature, int top_k, float top_p, float min_p) {
    SamplingParams p;
    p.temperature = temperature;
    p.top_k = top_k;
    p.top_p = top_p;
    p.min_p = min_p;
    return p;
  };
  std::vector<SamplingParams> all = {with(0, 0, 1, 0),        with(1, 50, 1, 0),
                                     with(0.7f, 0, 0.9f, 0),  with(1, 0, 1, 0.05f),
                                     with(0.8f, 20, 0.8f, 0), with(0.6f, 0, 0.95f, 0.02f)};
  all.push_back(with(0.7f, 20, 0.8f, 0));
  all.back().repetition_penalty = 1.1f;
  std::normal_distribution<float> normal(0, 2.5f);
  std::exponential_distribution<float> exponential(0.5f);
  const std::vector<int32_t> prompt = SomeTokens(kVocab, 2000), forbidden = {2};
  Sampler sampler(kVocab);
  OutputParams output;
  output.top_logprobs = 5;
  std::vector<int> decided(all.size());
  for (int r = 0; r < kRows; r++) {
    std::vector<float> row(kVocab);
    for (float& x : row) x = normal(random_);
    for (int i = 0; i < 60; i++) row[random_() % kVocab] += 6 + exponential(random_);
    for (size_t i = 0; i < all.size(); i++) {
      SampleInput whole;
      whole.prompt = prompt;
      if (r % 2 == 0) whole.forbidden = forbidden;
      SampleInput few = whole;
      whole.logits = row;
      few.top = top_.get();
      all[i].seed = random_();
      Find(row, QueryFor(all[i], output), kMaxTopLogits);
      const auto got = ChooseToken(sampler, all[i], output, few);
      ASSERT_TRUE(got.ok()) << got.status();
      if (!*got) continue;
      decided[i]++;
      ASSERT_EQ((*got)->token, (*ChooseToken(sampler, all[i], output, whole))->token) << i;
    }
  }
  for (size_t i = 0; i < all.size(); i++) EXPECT_GE(decided[i], kRows - 3) << "parameters " << i;
}

TEST_F(ChooseTokenTest, WhatDoesNotDecideIsLeftToTheWholeRow) {
  const std::vector<float> row = {5, 4, 3, 2, 1, 0};
  const auto decides = [&](int most, auto change, std::vector<int32_t> forbidden = {}) {
    SamplingParams params;
    OutputParams output;
    change(params, output);
    Find(row, QueryFor(params, output), most);
    SampleInput input;
    input.top = top_.get();
    input.forbidden = forbidden;
    Sampler sampler(6);
    const auto got = ChooseToken(sampler, params, output, input);
    EXPECT_TRUE(got.ok()) << got.status();
    return got->has_value();
  };
  using P = SamplingParams&;
  using O = OutputParams&;
  const auto greedy = [](P p, O) { p.temperature = 0; };
  EXPECT_TRUE(decides(1, greedy));
  EXPECT_FALSE(decides(1, greedy, {0}));
  EXPECT_TRUE(decides(2, greedy, {0}));
  EXPECT_TRUE(decides(3, [](P p, O) { p.top_k = 3; }));
  EXPECT_FALSE(decides(3, [](P p, O) { p.top_k = 4; }));
  EXPECT_FALSE(decides(3, [](P p, O) { p.top_k = 3; }, {1}));
  EXPECT_TRUE(decides(3, [](P p, O) { p.top_k = 3, p.typical_p = 0.5f; }));
  // exp(-2) is 0.135; the known three have 0.95 of the sum.
  EXPECT_TRUE(decides(3, [](P p, O) { p.min_p = 0.1f; }));
  EXPECT_FALSE(decides(3, [](P p, O) { p.min_p = 0.04f; }));
  EXPECT_TRUE(decides(3, [](P p, O) { p.top_p = 0.94f; }));
  EXPECT_FALSE(decides(3, [](P p, O) { p.top_p = 0.96f; }));
  EXPECT_TRUE(decides(3, [](P p, O) { p.top_p = 0.96f, p.min_p = 0.1f; }));
  EXPECT_TRUE(decides(3, [](P p, O) { p.top_p = 0.7f; }, {1}));
  EXPECT_FALSE(decides(3, [](P p, O) { p.top_p = 0.7f; }, {0}));
  EXPECT_FALSE(decides(3, [](P, O) {}));  // nothing truncates
  EXPECT_TRUE(decides(3, [](P p, O o) { p.top_k = 1, o.top_logprobs = 3; }));
  EXPECT_FALSE(decides(3, [](P p, O o) { p.top_k = 1, o.top_logprobs = 4; }));
  EXPECT_FALSE(decides(3, [](P p, O) { p.top_k = 1, p.logit_bias = {{5, 1.0f}}; }));
  EXPECT_TRUE(decides(3, [](P p, O) { p.top_k = 1, p.logit_bias = {{5, -1.0f}}; }));
  EXPECT_FALSE(decides(3, [](P p, O) { p.top_k = 1, p.allowed_token_ids = {0}; }));
  EXPECT_TRUE(decides(3, [](P p, O) { p.top_k = 1, p.bad_words = {{0}, {1}, {5, 2}}; }));
  EXPECT_FALSE(decides(3, [](P p, O) { p.top_k = 1, p.bad_words = {{0}, {1}, {2}}; }));
  // What is known is all there is.
  EXPECT_TRUE(decides(6, [](P p, O) { p.top_k = 100; }, {0, 1, 2}));
}

// Where the last known digit of the sum decides, the whole row does.
TEST_F(ChooseTokenTest, SumsWithinRoundingOfTheMassDecideNothing) {
  const std::vector<float> row = {0, 0, -50, -50};  // top_p = 0.5 is met by the first, or not
  SamplingParams params;
  params.top_p = 0.5f;
  Sampler sampler(4);
  Find(row, QueryFor(params, {}), 2);
  SampleInput input;
  input.top = top_.get();
  auto got = ChooseToken(sampler, params, {}, input);
  ASSERT_TRUE(got.ok());
  EXPECT_FALSE(got->has_value());
  params.top_p = 0.49999f;
  got = ChooseToken(sampler, params, {}, input);
  ASSERT_TRUE(got.ok() && *got);
  EXPECT_EQ((*got)->token, 0);
}

TEST_F(ChooseTokenTest, ErrorsAreTheWholeRows) {
  std::vector<std::vector<float>> rows(4, {1, 2, 3, 4});
  rows[0][2] = std::nanf("");
  rows[1][1] = rows[1][3] = kInfinity;
  rows[2].assign(4, -kInfinity);
  const std::vector<int32_t> forbidden = {3, 0, 1, 2};
  Sampler sampler(4);
  for (const std::vector<float>& row : rows) {
    for (float temperature : {0.0f, 1.0f}) {
      SamplingParams params;
      params.temperature = temperature;
      params.top_k = 2;
      Find(row, QueryFor(params, {}), 4);
      SampleInput whole;
      whole.forbidden = forbidden;
      SampleInput few = whole;
      whole.logits = row;
      few.top = top_.get();
      const auto expected = ChooseToken(sampler, params, {}, whole);
      // The last row has finite logits: what is wrong is that all its tokens are forbidden.
      EXPECT_EQ(expected.status().code(), row[0] == 1 && row[1] == 2 && row[2] == 3
                                              ? absl::StatusCode::kInvalidArgument
                                              : absl::StatusCode::kInternal);
      EXPECT_EQ(ChooseToken(sampler, params, {}, few).status(), expected.status());
    }
  }
}

}  // namespace
}  // namespace tauserve
