// The operations between the products, on every instruction set or the GPU, against plain double-precision
// statements of them.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/half.h"
#include "tests/kernels/test_device.h"

namespace tauserve {
namespace {

class ElementwiseTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    backend_ = MakeTestBackend(GetParam(), TestKvTypes()[0]);
    rounds_ = backend_->activation_type() != DataType::kFloat32;
    // One slice of kRows tokens from position 1000.
    pages_.assign(32, 0);
    slice_ = {0, kRows, 1000, pages_.data()};
    backend_->BeginStep({&slice_, 1});
  }
  std::vector<float> Random(int n, float sigma = 1) {
    std::normal_distribution<float> normal(0, sigma);
    std::vector<float> x(n);
    for (float& f : x) f = Rounded(normal(random_));
    return x;
  }
  // As the backend's activations hold it.
  float Rounded(float f) const { return rounds_ ? BFloat16ToFloat(FloatToBFloat16(f)) : f; }
  // Of a result near `ref`; `float_tolerance` of float32 activations, relative to 1 + |ref|.
  double Tolerance(double float_tolerance, double ref) const {
    return rounds_ ? 0x1p-8 * std::fabs(ref) + float_tolerance
                   : float_tolerance * (1 + std::fabs(ref));
  }
  std::vector<float> Finish(const TestMatrix& m) {
    const absl::Status status = backend_->Synchronize();
    EXPECT_TRUE(status.ok()) << status;
    return m.Get();
  }
  static constexpr int kRows = 37;
  std::mt19937 random_{11};
  std::vector<PageId> pages_;
  SequenceSlice slice_;
  std::unique_ptr<Backend> backend_;
  bool rounds_ = false;
};

INSTANTIATE_TEST_SUITE_P(AllTargets, ElementwiseTest, testing::ValuesIn(TestTargets()),
                         [](const auto& info) { return info.param; });

TEST_P(ElementwiseTest, RmsNorm) {
  for (int n : {5, 16, 64, 100, 320}) {
    const std::vector<float> x = Random(kRows * n), w = Random(n);
    auto weight = backend_->LoadVector({w.data(), DataType::kFloat32, {n}});
    const TestMatrix in(*backend_, kRows, n, x), out(*backend_, kRows, n);
    backend_->RmsNorm(in.matrix(), *weight, 1e-5f, out.matrix());
    const std::vector<float> y = Finish(out);
    for (int r = 0; r < kRows; r++) {
      double square = 0;
      for (int i = 0; i < n; i++) square += double{x[r * n + i]} * x[r * n + i];
      for (int i = 0; i < n; i++) {
        const double ref = x[r * n + i] / std::sqrt(square / n + 1e-5) * w[i];
        ASSERT_NEAR(y[r * n + i], ref, Tolerance(2e-6, ref));
      }
    }
  }
}

TEST_P(ElementwiseTest, RmsNormOfEachHead) {
  const int n = 48, heads = 5;
  const std::vector<float> x = Random(kRows * heads * n), w = Random(n);
  auto weight = backend_->LoadVector({w.data(), DataType::kFloat32, {n}});
  const TestMatrix m(*backend_, kRows, heads * n, x);
  backend_->RmsNorm(m.matrix(), *weight, 1e-5f, m.matrix());
  const std::vector<float> y = Finish(m);
  for (int run = 0; run < kRows * heads; run++) {
    double square = 0;
    for (int i = 0; i < n; i++) square += double{x[run * n + i]} * x[run * n + i];
    for (int i = 0; i < n; i++) {
      const double ref = x[run * n + i] / std::sqrt(square / n + 1e-5) * w[i];
      ASSERT_NEAR(y[run * n + i], ref, Tolerance(2e-6, ref));
    }
  }
}

TEST_P(ElementwiseTest, GatedActivations) {
  for (const int n : {45, 64, 520}) {
    std::vector<float> x = Random(kRows * 2 * n, 4);
    x[0] = 300;
    x[1] = -300;
    for (Activation act : {Activation::kSilu, Activation::kGeluTanh}) {
      const TestMatrix in(*backend_, kRows, 2 * n, x), out(*backend_, kRows, n);
      backend_->GatedActivation(act, in.matrix(), out.matrix());
      const std::vector<float> y = Finish(out);
      for (int r = 0; r < kRows; r++) {
        for (int i = 0; i < n; i++) {
          const double g = x[r * 2 * n + i], up = x[r * 2 * n + n + i];
          const double a =
              act == Activation::kSilu
                  ? g / (1 + std::exp(-g))
                  : 0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g)));
          ASSERT_NEAR(y[r * n + i], a * up, Tolerance(1e-5, a * up)) << g;
        }
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
    const TestMatrix m(*backend_, kRows, heads * dim, x);
    backend_->BeginStep({&slice_, 1});
    backend_->Rope(spec, dim, m.matrix());
    const std::vector<float> y = Finish(m);
    for (int r = 0; r < kRows; r++) {
      for (int h = 0; h < heads; h++) {
        const float* from = &x[(r * heads + h) * dim];
        const float* to = &y[(r * heads + h) * dim];
        for (int d = 0; d < rotary / 2; d++) {
          const double angle = (1000.0 + r) * spec.inverse_frequency[d];
          const double c = 1.25 * std::cos(angle), s = 1.25 * std::sin(angle);
          const double low = from[d] * c - from[d + rotary / 2] * s;
          const double high = from[d + rotary / 2] * c + from[d] * s;
          ASSERT_NEAR(to[d], low, Tolerance(1e-5, low));
          ASSERT_NEAR(to[d + rotary / 2], high, Tolerance(1e-5, high));
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
    const TestMatrix projected(*backend_, kRows, 2 * n, p);
    const TestMatrix out(*backend_, kRows, heads, heads, DataType::kFloat32);
    backend_->QueryScale(spec, projected.matrix(), out.matrix());
    const std::vector<float> y = Finish(out);
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
  const TestMatrix rows(*backend_, 4, 20), picked(*backend_, 2, 20);
  backend_->Embed(*embedding, tokens, rows.matrix());
  const std::vector<int32_t> pick = {2, 1};
  backend_->GatherRows(rows.matrix(), pick, picked.matrix());
  const auto downloaded = backend_->AllocateHost(2 * 20 * sizeof(float));
  const float* const host = static_cast<const float*>(downloaded->data());
  backend_->Download(picked.matrix(), static_cast<float*>(downloaded->data()));
  const std::vector<float> y = Finish(rows);
  for (int r = 0; r < 4; r++) {
    for (int c = 0; c < 20; c++) ASSERT_EQ(y[r * 20 + c], table[tokens[r] * 20 + c]);
  }
  for (int c = 0; c < 20; c++) {
    ASSERT_EQ(host[c], table[c]);
    ASSERT_EQ(host[20 + c], table[9 * 20 + c]);
  }
}

}  // namespace
}  // namespace tauserve
