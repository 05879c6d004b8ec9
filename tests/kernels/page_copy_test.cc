// Copies of pages: what goes on from a copy is as if it had been computed from its first token, and the original knows
// nothing of it.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "kernels/backend.h"
#include "tests/kernels/test_device.h"

namespace tauserve {
namespace {

constexpr int kLayers = 2, kHeads = 4, kKvHeads = 2, kDim = 64;

// A sequence of tokens, which are numbers of rows of a random table.
struct Tokens {
  std::vector<PageId> pages;
  int count = 0;
};
struct Work {
  Tokens* sequence;
  std::vector<int> tokens;  // the next ones
};

class PageCopyTest : public testing::TestWithParam<std::tuple<std::string, DataType>> {
 protected:
  void SetUp() override {
    backend_ = MakeTestBackend(std::get<0>(GetParam()), std::get<1>(GetParam()));
    spec_.num_heads = kHeads;
    spec_.num_kv_heads = kKvHeads;
    spec_.head_dim = kDim;
    spec_.scale = 1 / std::sqrt(static_cast<float>(kDim));
    spec_.alpha.assign(kHeads, 1.5f);
    spec_.alibi_slope = {0, 0, 0.05f, 0.05f};  // bounds by distance rest on the keys' norms
    ASSERT_TRUE(backend_->CreateKvCache({kLayers, kKvHeads, kDim, 12}).ok());
  }
  std::vector<float> Row(int token, int layer, int kind, int width, float sigma) {
    std::mt19937 random(1000 * token + 10 * layer + kind);
    std::normal_distribution<float> normal(0, sigma);
    std::vector<float> row(width);
    for (float& x : row) x = normal(random);
    return row;
  }
  // Attention's output of all rows and layers.
  std::vector<float> Step(const std::vector<Work>& work, float key_sigma = 2) {
    std::vector<SequenceSlice> slices;
    std::vector<int> tokens;
    for (const Work& w : work) {
      slices.push_back({static_cast<int>(tokens.size()), static_cast<int>(w.tokens.size()),
                        w.sequence->count, w.sequence->pages.data()});
      w.sequence->count += static_cast<int>(w.tokens.size());
      tokens.insert(tokens.end(), w.tokens.begin(), w.tokens.end());
    }
    const int rows = static_cast<int>(tokens.size());
    std::vector<std::unique_ptr<TestMatrix>> kept;
    const auto matrix = [&](int layer, int kind, int width, float sigma) {
      std::vector<float> values;
      for (int token : tokens) {
        const std::vector<float> row = Row(token, layer, kind, width, sigma);
        values.insert(values.end(), row.begin(), row.end());
      }
      kept.push_back(std::make_unique<TestMatrix>(*backend_, rows, width, values));
      return kept.back()->matrix();
    };
    std::vector<std::unique_ptr<TestMatrix>> outs;
    backend_->BeginStep(slices);
    for (int layer = 0; layer < kLayers; layer++) {
      outs.push_back(std::make_unique<TestMatrix>(*backend_, rows, kHeads * kDim));
      backend_->AppendKv(layer, matrix(layer, 0, kKvHeads * kDim, key_sigma),
                         matrix(layer, 1, kKvHeads * kDim, 1));
      backend_->Attention(layer, spec_, matrix(layer, 2, kHeads * kDim, 1), {},
                          outs.back()->matrix());
    }
    EXPECT_TRUE(backend_->Synchronize().ok());
    std::vector<float> all;
    for (const auto& out : outs) {
      const std::vector<float> values = out->Get();
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  }
  void ExpectNear(const std::vector<float>& a, const std::vector<float>& b) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < a.size(); i++) {
      difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
      norm += double{b[i]} * b[i];
    }
    const bool rounds = backend_->activation_type() != DataType::kFloat32;
    ASSERT_LE(std::sqrt(difference / norm), rounds ? 8e-3 : 2e-5);
  }

  AttentionSpec spec_;
  std::unique_ptr<Backend> backend_;
};

INSTANTIATE_TEST_SUITE_P(AllTargets, PageCopyTest,
                         testing::Combine(testing::ValuesIn(TestTargets()),
                                          testing::ValuesIn(TestKvTypes())),
                         [](const auto& info) { return TargetName(info.param); });

TEST_P(PageCopyTest, ACopyGoesOnAsTheOriginalWould) {
  Tokens before{{3, 11}, 0};
  std::vector<int> prefix, small;
  for (int i = 0; i < 100; i++) prefix.push_back(i);
  for (int i = 0; i < 128; i++) small.push_back(5000 + i);
  // What the copies' pages held: keys so small that their norms, if they stayed, would rule out those that come.
  Step({{&before, small}}, 1e-3f);
  Tokens original{{0, 1, 2}, 0};
  Tokens anew[] = {{{5, 6, 7}, 0}, {{8, 9, 10}, 0}};
  Step({{&original, prefix}});
  Step({{&anew[0], prefix}});
  Step({{&anew[1], prefix}});
  const PageCopy copies[] = {{1, 3}, {9, 11}};
  backend_->CopyPages(copies);
  Tokens copy = original;
  copy.pages = {0, 3, 4};
  // Over the end of the page, where it gets what full pages have. 9 and 11 are copied for nothing.
  for (int i = 0; i < 60; i++) {
    const std::vector<float> shared = Step({{&original, {200 + i}}, {&copy, {300 + i}}});
    const std::vector<float> own = Step({{&anew[0], {200 + i}}, {&anew[1], {300 + i}}});
    ExpectNear(shared, own);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace tauserve
