// The operations between the products, on every instruction set, against plain double-precision statements of them.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "tests/kernels/attention_case.h"

namespace tauserve {
namespace {

class ElementwiseTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    backend_ = MakeCpuBackend(GetParam(), DataType::kFloat32);
    for (int r = 0; r < kRows; r++) pages_.push_back(0);
    // One slice of kRows tokens from position 1000.
    pages_.assign(32, 0);
    slice_ = {0, kRows, 1000, pages_.data()};
    backend_->BeginStep({&slice_, 1});
  }
  std::vector<float> Random(int n, float sigma = 1) {
    std::normal_distribution<float> normal(0, sigma);
    std::vector<float> x(n);
    for (float& f : x) f = normal(random_);
    return x;
  }
  static constexpr int kRows = 37;
  std::mt19937 random_{11};
  std::vector<PageId> pages_;
  SequenceSlice slice_;
  std::unique_ptr<Backend> backend_;
};

INSTANTIATE_TEST_SUITE_P(AllIsas, ElementwiseTest, testing::ValuesIn(IsaNames()),
                         [](const auto& info) { return info.param; });

TEST_P(ElementwiseTest, RmsNorm) {
  for (int n : {5, 16, 64, 100, 320}) {
    const std::vector<float> x = Random(kRows * n), w = Random(n);
    std::vector<float> y(kRows * n);
    auto weight = backend_->LoadVector({w.data(), DataType::kFloat32, {n}});
    backend_->RmsNorm({const_cast<float*>(x.data()), kRows, n, n}, *weight, 1e-5f,
                      {y.data(), kRows, n, n});
    for (int r = 0; r < kRows; r++) {
      double square = 0;
      for (int i = 0; i < n; i++) square += double{x[r * n + i]} * x[r * n + i];
      for (int i = 0; i < n; i++) {
        const double ref = x[r * n + i] / std::sqrt(square / n + 1e-5) * w[i];
        ASSERT_NEAR(y[r * n + i], ref, 2e-6 * (1 + std::fabs(ref)));
      }
    }
  }
}

TEST_P(ElementwiseTest, GatedActivations) {
  const int n = 45;
  std::vector<float> x = Random(kRows * 2 * n, 4);
  x[0] = 300;
  x[1] = -300;
  for (Activation act : {Activation::kSilu, Activation::kGeluTanh}) {
    std::vector<float> y(kRows * n);
    backend_->GatedActivation(act, {x.data(), kRows, 2 * n, 2 * n}, {y.data(), kRows, n, n});
    for (int r = 0; r < kRows; r++) {
      for (int i = 0; i < n; i++) {
        const double g = x[r * 2 * n + i], up = x[r * 2 * n + n + i];
        const double a =
            act == Activation::kSilu
                ? g / (1 + std::exp(-g))
                : 0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g)));
        ASSERT_NEAR(y[r * n + i], a * up, 1e-5 * (1 + std::fabs(a * up))) << g;
      }
    }
  }
}

TEST_P(ElementwiseTest, Rope) {
  for (int rotary : {16, 24, 64}) {
    RopeSpec spec;
    spec.rotary_dim = rotary;
    spec.attention_factor = 1.25f;
    for (int d = 0; d < rotary / 2; d++) {
      spec.inverse_frequency.push_back(std::pow(10000.0f, -2.0f * d / rotary));
    }
    const int heads = 3, dim = 64;
    const std::vector<float> x = Random(kRows * heads * dim);
    std::vector<float> y = x;
    backend_->BeginStep({&slice_, 1});
    backend_->Rope(spec, dim, {y.data(), kRows, heads * dim, heads * dim});
    for (int r = 0; r < kRows; r++) {
      for (int h = 0; h < heads; h++) {
        const float* from = &x[(r * heads + h) * dim];
        const float* to = &y[(r * heads + h) * dim];
        for (int d = 0; d < rotary / 2; d++) {
          const double angle = (1000.0 + r) * spec.inverse_frequency[d];
          const double c = 1.25 * std::cos(angle), s = 1.25 * std::sin(angle);
          ASSERT_NEAR(to[d], from[d] * c - from[d + rotary / 2] * s, 1e-5);
          ASSERT_NEAR(to[d + rotary / 2], from[d + rotary / 2] * c + from[d] * s, 1e-5);
        }
        for (int d = rotary; d < dim; d++) ASSERT_EQ(to[d], from[d]);
      }
    }
  }
}

TEST_P(ElementwiseTest, QueryScale) {
  const int heads = 6, first = 2, n = heads - first;
  const std::vector<float> p = Random(kRows * 2 * n, 3);
  QueryScaleSpec spec;
  spec.first_head = first;
  spec.delta = 0.75f;
  spec.gamma_range = 1.5f;
  spec.beta = {0.5f, 1, 2, -1};
  spec.gamma = {0, 0.5f, 1, 2};
  using Kind = QueryScaleSpec::Kind;
  for (Kind kind : {Kind::kAdaptive, Kind::kLearned, Kind::kLogarithmic}) {
    spec.kind = kind;
    std::vector<float> y(kRows * heads);
    backend_->QueryScale(spec, {const_cast<float*>(p.data()), kRows, 2 * n, 2 * n},
                         {y.data(), kRows, heads, heads});
    for (int r = 0; r < kRows; r++) {
      const double l = std::log(1000.0 + r + 2);
      for (int h = 0; h < heads; h++) {
        double ref = 1;
        if (h >= first) {
          const int i = h - first;
          const double b = p[r * 2 * n + i], g = p[r * 2 * n + n + i];
          if (kind == Kind::kAdaptive) {
            ref = 0.75 + std::log1p(std::exp(b)) * std::pow(l, 1.5 * std::tanh(g));
          } else if (kind == Kind::kLearned) {
            ref = 0.75 + spec.beta[i] * std::pow(l, double{spec.gamma[i]});
          } else {
            ref = spec.beta[i] * l;
          }
        }
        ASSERT_NEAR(y[r * heads + h], ref, 1e-5 * (1 + std::fabs(ref)));
      }
    }
  }
}

TEST_P(ElementwiseTest, EmbedAndGather) {
  const std::vector<float> table = Random(10 * 20);
  auto embedding = backend_->LoadEmbedding({table.data(), DataType::kFloat32, {10, 20}});
  const std::vector<int32_t> tokens = {3, 9, 0, 3};
  std::vector<float> rows(4 * 20), picked(2 * 20), host(2 * 20);
  backend_->Embed(*embedding, tokens, {rows.data(), 4, 20, 20});
  for (int r = 0; r < 4; r++) {
    for (int c = 0; c < 20; c++) ASSERT_EQ(rows[r * 20 + c], table[tokens[r] * 20 + c]);
  }
  const std::vector<int32_t> pick = {2, 1};
  backend_->GatherRows({rows.data(), 4, 20, 20}, pick, {picked.data(), 2, 20, 20});
  backend_->Download({picked.data(), 2, 20, 20}, host.data());
  backend_->Synchronize();
  for (int c = 0; c < 20; c++) {
    ASSERT_EQ(host[c], table[c]);
    ASSERT_EQ(host[20 + c], table[9 * 20 + c]);
  }
}

}  // namespace
}  // namespace tauserve
