// Each sampling parameter against a plain statement of it, in double precision, written apart from the sampler.
#include "server/sampling/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <vector>

namespace tauserve {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();

std::vector<float> RandomLogits(std::mt19937& random, int n, float sigma = 2) {
  std::normal_distribution<float> normal(0, sigma);
  std::vector<float> logits(n);
  for (float& x : logits) x = normal(random);
  return logits;
}

// The distribution that the parameters describe, by sorting.
std::vector<double> Distribution(const SamplingParams& p, const SampleInput& in) {
  const int n = static_cast<int>(in.logits.size());
  std::vector<double> l(in.logits.begin(), in.logits.end());
  for (const auto& [t, bias] : p.logit_bias) l[t] += bias;
  if (!p.allowed_token_ids.empty()) {
    const std::set<int32_t> allowed(p.allowed_token_ids.begin(), p.allowed_token_ids.end());
    for (int t = 0; t < n; t++) {
      if (!allowed.contains(t)) l[t] = kNever;
    }
  }
  std::set<int32_t> seen(in.prompt.begin(), in.prompt.end());
  seen.insert(in.output.begin(), in.output.end());
  for (int32_t t : seen)
    l[t] = l[t] > 0 ? l[t] / p.repetition_penalty : l[t] * p.repetition_penalty;
  std::map<int32_t, int> counts;
  for (int32_t t : in.output) counts[t]++;
  for (const auto& [t, c] : counts) l[t] -= p.presence_penalty + c * p.frequency_penalty;
  for (int32_t t : in.forbidden) l[t] = kNever;
  // The output with the token behind it must not end with a bad word.
  for (const std::vector<int32_t>& word : p.bad_words) {
    for (int t = 0; t < n; t++) {
      std::vector<int32_t> then(in.output.begin(), in.output.end());
      then.push_back(t);
      if (then.size() < word.size()) continue;
      if (std::vector<int32_t>(then.end() - word.size(), then.end()) == word) l[t] = kNever;
    }
  }
  for (int t = 0; t < n && !in.mask.empty(); t++) {
    if ((in.mask[t / 64] >> (t % 64) & 1) == 0) l[t] = kNever;
  }
  for (double& x : l) x /= p.temperature;

  std::vector<int> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return l[a] > l[b]; });
  if (p.top_k > 0) {
    for (int i = p.top_k; i < n; i++) l[order[i]] = kNever;
  }
  std::vector<double> q(n);
  auto normalize = [&] {
    const double max = *std::max_element(l.begin(), l.end());
    double sum = 0;
    for (int t = 0; t < n; t++) sum += q[t] = std::exp(l[t] - max);
    for (double& x : q) x /= sum;
  };
  normalize();
  if (p.typical_p < 1) {
    double entropy = 0;
    for (double x : q) entropy -= x > 0 ? x * std::log(x) : 0;
    std::vector<int> near = order;
    auto distance = [&](int t) {
      return q[t] > 0 ? std::fabs(-std::log(q[t]) - entropy)
                      : std::numeric_limits<double>::infinity();
    };
    std::stable_sort(near.begin(), near.end(),
                     [&](int a, int b) { return distance(a) < distance(b); });
    double mass = 0;
    for (int t : near) {
      if (mass >= p.typical_p) l[t] = kNever;
      mass += q[t];
    }
    normalize();
  }
  double mass = 0;
  for (int t : order) {
    if (mass >= p.top_p) l[t] = kNever;
    mass += q[t];
  }
  normalize();
  const double top = *std::max_element(q.begin(), q.end());
  for (int t = 0; t < n; t++) {
    if (q[t] < p.min_p * top) l[t] = kNever;
  }
  normalize();
  return q;
}

// Draws many tokens and compares their counts with the stated distribution (chi-square, and no token outside it).
void CheckDistribution(const SamplingParams& params, SampleInput input, const char* what) {
  SCOPED_TRACE(what);
  const int n = static_cast<int>(input.logits.size());
  const std::vector<double> q = Distribution(params, input);
  Sampler sampler(n);
  const int draws = 20000;
  std::vector<int> counts(n, 0);
  SamplingParams p = params;
  for (int i = 0; i < draws; i++) {
    p.seed = i;
    const auto token = sampler.Sample(p, input);
    ASSERT_TRUE(token.ok()) << token.status();
    counts[*token]++;
  }
  double chi = 0;
  int cells = 0;
  for (int t = 0; t < n; t++) {
    const double expected = q[t] * draws;
    if (q[t] == 0) {
      ASSERT_EQ(counts[t], 0) << "token " << t;
    } else if (expected >= 5) {
      chi += (counts[t] - expected) * (counts[t] - expected) / expected;
      cells++;
    }
  }
  // Mean cells, deviation sqrt(2 cells): six deviations.
  EXPECT_LT(chi, cells + 6 * std::sqrt(2.0 * cells)) << cells << " cells";
}

TEST(SamplerTest, EveryParameterMeansWhatItSays) {
  std::mt19937 random(5);
  const std::vector<float> logits = RandomLogits(random, 40);
  const std::vector<int32_t> prompt = {3, 3, 7, 11}, output = {7, 20, 20, 21, 20};
  SampleInput in;
  in.logits = logits;
  in.prompt = prompt;
  in.output = output;
  const SamplingParams plain;
  auto with = [&](auto change) {
    SamplingParams p = plain;
    change(p);
    return p;
  };
  CheckDistribution(plain, in, "plain");
  CheckDistribution(with([](auto& p) { p.temperature = 0.5f; }), in, "cold");
  CheckDistribution(with([](auto& p) { p.temperature = 3; }), in, "hot");
  CheckDistribution(with([](auto& p) { p.top_k = 5; }), in, "top_k");
  CheckDistribution(with([](auto& p) { p.top_p = 0.7f; }), in, "top_p");
  CheckDistribution(with([](auto& p) { p.min_p = 0.2f; }), in, "min_p");
  CheckDistribution(with([](auto& p) { p.typical_p = 0.6f; }), in, "typical_p");
  CheckDistribution(with([](auto& p) { p.repetition_penalty = 1.8f; }), in, "repetition");
  CheckDistribution(with([](auto& p) { p.presence_penalty = 1.5f; }), in, "presence");
  CheckDistribution(with([](auto& p) { p.frequency_penalty = 0.7f; }), in, "frequency");
  CheckDistribution(with([](auto& p) { p.logit_bias = {{1, 5.0f}, {2, -100.0f}}; }), in, "bias");
  CheckDistribution(with([](auto& p) { p.allowed_token_ids = {1, 2, 30}; }), in, "allowed");
  // The output ends with 20, 21, 20; the prompt, which does not count, with 7, 11.
  CheckDistribution(with([](auto& p) {
                      p.bad_words = {{5}, {20, 8}, {21, 20, 9}, {21, 10}};
                    }),
                    in, "bad words");
  CheckDistribution(with([](auto& p) {
                      p.bad_words = {{11, 7, 20, 20, 21, 20, 3}, {7, 20, 20, 21, 20, 4}};
                    }),
                    in, "a bad word longer than the output, and one of all of it");
  CheckDistribution(with([](auto& p) {
                      p.temperature = 1.3f;
                      p.top_k = 20;
                      p.typical_p = 0.95f;
                      p.top_p = 0.9f;
                      p.min_p = 0.05f;
                      p.repetition_penalty = 1.2f;
                      p.presence_penalty = 0.3f;
                      p.frequency_penalty = 0.2f;
                    }),
                    in, "all together");
}

// Any mix of parameters, exactly: the token drawn is the one at which the stated distribution's sum, in order of ids,
// passes the random number. Undecided only where a sum or a truncation is within rounding of its bound.
TEST(SamplerTest, RandomParametersDrawExactlyTheStatedToken) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  auto chance = [&] { return random() % 3 == 0; };
  auto between = [&](float lo, float hi) {
    return std::uniform_real_distribution<float>(lo, hi)(random);
  };
  int other = 0, draws = 0;
  for (int round = 0; round < 300; round++) {
    const int n = round % 10 == 0 ? 3000 : 2 + random() % 200;
    const std::vector<float> logits = RandomLogits(random, n, between(0.01f, 6));
    std::vector<int32_t> prompt(1 + random() % 50), output(random() % 50);
    for (std::vector<int32_t>* tokens : {&prompt, &output}) {
      for (int32_t& t : *tokens) t = random() % n;
    }
    SamplingParams p;
    if (chance()) p.temperature = between(0.1f, 4);
    if (chance()) p.top_k = 1 + random() % n;
    if (chance()) p.top_p = between(0.01f, 1);
    if (chance()) p.min_p = between(0, 1);
    if (chance()) p.typical_p = between(0.01f, 1);
    if (chance()) p.repetition_penalty = between(0.5f, 2);
    if (chance()) p.presence_penalty = between(-2, 2);
    if (chance()) p.frequency_penalty = between(-2, 2);
    for (int i = chance() ? 5 : 0; i > 0; i--) p.logit_bias[random() % n] = between(-20, 20);
    for (int i = chance() ? 10 : 0; i > 0; i--) p.allowed_token_ids.push_back(random() % n);
    for (int i = chance() ? 4 : 0; i > 0 && p.allowed_token_ids.empty() && n > 4; i--) {
      const int from = output.size() - random() % (std::min<size_t>(output.size(), 4) + 1);
      p.bad_words.emplace_back(output.begin() + from, output.end());
      p.bad_words.back().push_back(random() % n);
    }
    SampleInput in;
    in.logits = logits;
    in.prompt = prompt;
    in.output = output;
    std::vector<uint64_t> mask((n + 63) / 64);
    for (uint64_t& word : mask) word = uint64_t{random()} << 32 | random();
    mask[0] |= 3;
    if (p.allowed_token_ids.empty() && chance()) in.mask = mask;
    const std::vector<double> q = Distribution(p, in);
    Sampler sampler(n);
    for (int i = 0; i < 20; i++, draws++) {
      p.seed = random();
      const auto token = sampler.Sample(p, in);
      ASSERT_TRUE(token.ok()) << token.status();
      const double u = UniformAt(p.seed, output.size());
      double before = 0;
      for (int t = 0; t < *token; t++) before += q[t];
      const bool stated = u > before - 1e-5 && u < before + q[*token] + 1e-5 && q[*token] > 0;
      other += !stated;
    }
  }
  // Two parameters' bounds may fall within rounding of each other once in a while, and then change a whole round.
  EXPECT_LE(other, draws / 100) << "of " << draws;
}

TEST(SamplerTest, GreedyTakesTheLargestAndTiesGoToTheLowestId) {
  Sampler sampler(5);
  SamplingParams p;
  p.temperature = 0;
  const std::vector<float> logits = {1, 3, 2, 3, 0};
  SampleInput in;
  in.logits = logits;
  EXPECT_EQ(*sampler.Sample(p, in), 1);
  const std::vector<int32_t> forbidden = {1, 3};
  in.forbidden = forbidden;
  EXPECT_EQ(*sampler.Sample(p, in), 2);
}

TEST(SamplerTest, TopKOneIsGreedy) {
  std::mt19937 random(6);
  Sampler sampler(100);
  for (int i = 0; i < 100; i++) {
    const std::vector<float> logits = RandomLogits(random, 100);
    SampleInput in;
    in.logits = logits;
    SamplingParams greedy, one;
    greedy.temperature = 0;
    one.top_k = 1;
    one.seed = i;
    EXPECT_EQ(*sampler.Sample(greedy, in), *sampler.Sample(one, in));
  }
}

TEST(SamplerTest, SameSeedAndPositionSameToken) {
  std::mt19937 random(7);
  const std::vector<float> logits = RandomLogits(random, 1000, 1);
  Sampler a(1000), b(1000);
  SampleInput in;
  in.logits = logits;
  SamplingParams p;
  p.seed = 42;
  std::set<int32_t> tokens;
  std::vector<int32_t> output;
  for (int i = 0; i < 50; i++) {
    in.output = output;
    const int32_t token = *a.Sample(p, in);
    EXPECT_EQ(token, *b.Sample(p, in));
    tokens.insert(token);
    output.push_back(0);
  }
  EXPECT_GT(tokens.size(), 30u);  // positions differ
}

TEST(SamplerTest, UnusableLogitsAreAnError) {
  Sampler sampler(3);
  SampleInput in;
  for (float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    const std::vector<float> logits = {0, bad, 1};
    in.logits = logits;
    for (float temperature : {0.0f, 1.0f}) {
      SamplingParams p;
      p.temperature = temperature;
      EXPECT_EQ(sampler.Sample(p, in).status().code(), absl::StatusCode::kInternal);
    }
  }
  // A broken row is broken, whatever may be chosen from it.
  const std::vector<float> partly = {0, std::nanf(""), 1};
  in.logits = partly;
  SamplingParams allowed;
  allowed.allowed_token_ids = {0, 2};
  EXPECT_EQ(sampler.Sample(allowed, in).status().code(), absl::StatusCode::kInternal);
  const std::vector<float> none(3, -std::numeric_limits<float>::infinity());
  in.logits = none;
  EXPECT_EQ(sampler.Sample(SamplingParams(), in).status().code(), absl::StatusCode::kInternal);
  // Where the parameters rule out all that is finite, they are wrong.
  const std::vector<float> whole = {0, 2, 1};
  in.logits = whole;
  allowed.bad_words = {{0}, {2}};
  EXPECT_EQ(sampler.Sample(allowed, in).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(SamplerTest, ExtremesStayFinite) {
  Sampler sampler(4);
  const std::vector<float> logits = {1e30f, -1e30f, 0, 1e30f};
  SampleInput in;
  in.logits = logits;
  SamplingParams p;
  for (float temperature : {1e-40f, 1e-3f, 1.0f, 100.0f}) {
    p.temperature = temperature;
    const auto token = sampler.Sample(p, in);
    ASSERT_TRUE(token.ok());
    EXPECT_TRUE(*token == 0 || *token == 3);
  }
  const std::vector<float> plain = {5, 20, -5, 0};
  const std::vector<int32_t> prompt = {0, 1, 2};
  in.logits = plain;
  in.prompt = prompt;
  for (float tiny : {1e-40f, 1e-6f}) {
    SamplingParams cold;
    cold.temperature = tiny;
    EXPECT_EQ(*sampler.Sample(cold, in), 1);
    SamplingParams strange;
    strange.repetition_penalty = tiny;
    EXPECT_TRUE(sampler.Sample(strange, in).ok());
    for (float SamplingParams::*field : {&SamplingParams::top_p, &SamplingParams::typical_p}) {
      SamplingParams narrow;
      narrow.*field = tiny;
      EXPECT_EQ(*sampler.Sample(narrow, in), 1);
    }
  }
  const std::vector<float> equal(4, 0.5f);
  in.logits = equal;
  SamplingParams narrow;
  narrow.top_p = 1e-40f;
  EXPECT_EQ(*sampler.Sample(narrow, in), 0);
}

TEST(UniformTest, IsUniformAndDependsOnBothArguments) {
  std::vector<int> bins(20, 0);
  for (uint64_t seed = 0; seed < 100; seed++) {
    for (uint64_t position = 0; position < 200; position++) {
      const double u = UniformAt(seed, position);
      ASSERT_GE(u, 0);
      ASSERT_LT(u, 1);
      bins[static_cast<int>(u * 20)]++;
    }
  }
  double chi = 0;
  for (int b : bins) chi += (b - 1000.0) * (b - 1000.0) / 1000;
  EXPECT_LT(chi, 19 + 6 * std::sqrt(38.0));
  EXPECT_NE(UniformAt(1, 2), UniformAt(2, 1));
}

}  // namespace
}  // namespace tauserve
