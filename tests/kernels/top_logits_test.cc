// The selection of the largest logits, on the CPU or the GPU, against a sorted row: everything exactly but the sums.
#include "kernels/top_logits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/kernels/test_device.h"

namespace tauserve {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kSmallest = std::numeric_limits<float>::denorm_min();

struct Case {
  std::string name;
  std::vector<float> row;
};

double Sum(const std::vector<float>& row, float max, float temperature) {
  double sum = 0;
  for (float x : row) sum += std::exp(static_cast<double>((x - max) / temperature));
  return sum;
}

// As the header states it.
void Check(const std::vector<float>& row, const LogitsQuery& query, const TopLogits& top) {
  const auto bad = std::find_if(row.begin(), row.end(), [](float x) { return !(x < kInfinity); });
  if (bad != row.end()) {
    ASSERT_EQ(top.first_unusable, bad - row.begin());
    EXPECT_EQ(std::isnan(top.unusable_logit), std::isnan(*bad));
    EXPECT_EQ(top.count, 0);
    return;
  }
  ASSERT_EQ(top.first_unusable, -1);
  std::vector<float> ranked = row;
  std::sort(ranked.begin(), ranked.end(), std::greater<float>());
  ASSERT_EQ(top.max, ranked[0]);
  if (top.max == -kInfinity) {
    EXPECT_EQ(top.count, 0);
    return;
  }
  ASSERT_EQ(top.bound, row.size() > kMaxTopLogits ? ranked[kMaxTopLogits] : -kInfinity);
  int count = 0;
  for (size_t t = 0; t < row.size(); t++) {
    if (row[t] <= top.bound) continue;
    ASSERT_LT(count, top.count);
    ASSERT_EQ(top.tokens[count], t);
    ASSERT_EQ(top.logits[count++], row[t]);
  }
  ASSERT_EQ(top.count, count);
  if (query.temperature > 0) {
    const double sum = Sum(row, top.max, query.temperature);
    EXPECT_NEAR(top.sum, sum, kTopLogitsSumError * sum);
  }
  if (query.unit_sum) {
    const double sum = Sum(row, top.max, 1);
    EXPECT_NEAR(top.unit_sum, sum, kTopLogitsSumError * sum);
  }
}

class TopLogitsTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { backend_ = MakeTestBackend(GetParam(), TestKvTypes()[0]); }

  // Begins a step of so many rows: of a prompt, or of one token each for as many sequences.
  void Begin(int rows, bool decode) {
    slices_.clear();
    if (!decode) slices_.push_back({0, rows, 1, pages_.data()});
    for (int r = 0; decode && r < rows; r++) slices_.push_back({r, 1, 1, pages_.data()});
    backend_->BeginStep(slices_);
  }

  std::vector<float> Random(int cols, float sigma, float mean = 0) {
    std::normal_distribution<float> normal(mean, sigma);
    std::vector<float> row(cols);
    for (float& x : row) x = normal(random_);
    return row;
  }
  template <typename Change>
  std::vector<float> Changed(std::vector<float> row, const Change& change) {
    for (size_t t = 0; t < row.size(); t++) row[t] = change(row[t], t);
    return row;
  }
  std::vector<Case> Cases(int cols) {
    const std::vector<float> normal = Random(cols, 3);
    std::vector<Case> cases = {
        {"normal", normal},
        {"far from zero", Random(cols, 0.01f, -1000)},  // differs in the last bits only
        {"flat", Random(cols, 1e-6f, 1)},
        {"large", Random(cols, 1e37f)},
        {"denormal", Random(cols, 1e-40f)},
        {"rounded", Changed(normal, [](float x, int) { return std::round(x); })},
        {"coarse", Changed(normal, [](float x, int) { return x > 4 ? 1.0f : -1.0f; })},
        {"equal", std::vector<float>(cols, -2.5f)},
        {"zeros of both signs",
         Changed(normal, [](float x, int) { return std::copysign(0.0f, x); })},
        {"ascending", Changed(normal, [](float, int t) { return t * 0.001f; })},
        {"descending", Changed(normal, [](float, int t) { return t * -0.001f; })},
        {"mostly -infinity", Changed(normal, [](float x, int) { return x > 7 ? x : -kInfinity; })},
        {"half -infinity", Changed(normal, [](float x, int t) { return t % 2 ? x : -kInfinity; })},
        {"-infinity", std::vector<float>(cols, -kInfinity)},
        {"extremes", Changed(normal,
                             [](float x, int t) {
                               const float of[] = {kLargest, -kLargest, kSmallest, -kSmallest, x};
                               return of[t % 5];
                             })},
    };
    std::vector<float> peak(cols, -5);
    peak[cols / 2] = 30;
    cases.push_back({"peak", peak});
    for (float bad : {std::nanf(""), -std::nanf(""), kInfinity}) {
      for (int at : {0, cols / 3, cols - 1}) {
        std::vector<float> row = normal;
        row[at] = row[cols - 1] = bad;
        cases.push_back({"unusable", row});
      }
    }
    return cases;
  }

  std::mt19937 random_{29};
  std::vector<PageId> pages_ = {0};
  std::vector<SequenceSlice> slices_;
  std::unique_ptr<Backend> backend_;
};

INSTANTIATE_TEST_SUITE_P(AllTargets, TopLogitsTest, testing::ValuesIn(TestTargets()),
                         [](const auto& info) { return info.param; });

TEST_P(TopLogitsTest, FindsWhatASortedRowShows) {
  for (const auto& [cols, stride] : {std::pair{1, 1},
                                     {5, 8},
                                     {1000, 1003},
                                     {kMaxTopLogits, kMaxTopLogits},
                                     {1025, 1028},
                                     {1026, 1026},
                                     {4099, 4099},
                                     {16384, 16384},
                                     {16385, 16388},
                                     {50257, 50257},
                                     {128256, 128256}}) {
    const std::vector<Case> cases = Cases(cols);
    const int rows = static_cast<int>(cases.size());
    TestMatrix logits(*backend_, rows, cols, stride, DataType::kFloat32);
    logits.Fill(1e20f);  // what lies behind a row is not of it
    std::vector<float> values;
    std::vector<LogitsQuery> queries(rows);
    for (int r = 0; r < rows; r++) {
      values.insert(values.end(), cases[r].row.begin(), cases[r].row.end());
      queries[r].whole = false;
      queries[r].temperature = r % 3 == 0 ? 0 : r % 3 == 1 ? 0.37f : 1e-40f;
      queries[r].unit_sum = r % 2 == 0;
    }
    logits.Set(values);
    const auto memory = backend_->AllocateHost(rows * sizeof(TopLogits));
    TopLogits* const top = static_cast<TopLogits*>(memory->data());
    Begin(rows, /*decode=*/false);
    backend_->SelectTopLogits(logits.matrix(), queries, top);
    const absl::Status status = backend_->Synchronize();
    ASSERT_TRUE(status.ok()) << status;
    for (int r = 0; r < rows; r++) {
      SCOPED_TRACE(testing::Message() << cases[r].name << ", row " << r << " of " << cols);
      Check(cases[r].row, queries[r], top[r]);
    }
  }
}

// Steps of decoding become graphs: what differs between them must not be part of those.
TEST_P(TopLogitsTest, EveryStepAnswersItsOwnQueries) {
  constexpr int kRows = 6, kCols = 3000;
  TestMatrix logits(*backend_, kRows, kCols, kCols, DataType::kFloat32);
  const auto memory = backend_->AllocateHost(kRows * sizeof(TopLogits));
  const auto downloads = backend_->AllocateHost(kRows * kCols * sizeof(float));
  TopLogits* const top = static_cast<TopLogits*>(memory->data());
  float* const downloaded = static_cast<float*>(downloads->data());
  for (int step = 0; step < 8; step++) {
    SCOPED_TRACE(testing::Message() << "step " << step);
    const std::vector<float> values = Random(kRows * kCols, 2);
    logits.Set(values);
    std::vector<LogitsQuery> queries(kRows);
    for (int r = 0; r < kRows; r++) {
      queries[r].whole = (r + step) % 3 == 0;
      queries[r].temperature = (r + step) % 4 * 0.5f;
      queries[r].unit_sum = (r + step) % 2 == 0;
      top[r].count = -7;
    }
    Begin(kRows, /*decode=*/true);
    backend_->SelectTopLogits(logits.matrix(), queries, top);
    // Some rows, differing from step to step; afterwards all of them.
    Matrix some = logits.matrix();
    some.data = static_cast<float*>(some.data) + step % 3 * kCols;
    some.rows = 1 + step % 2;
    backend_->DownloadFloats(some, downloaded);
    ASSERT_TRUE(backend_->Synchronize().ok());
    EXPECT_TRUE(
        std::equal(downloaded, downloaded + some.rows * kCols, values.begin() + step % 3 * kCols));
    backend_->DownloadFloats(logits.matrix(), downloaded);
    ASSERT_TRUE(backend_->Synchronize().ok());
    EXPECT_TRUE(std::equal(values.begin(), values.end(), downloaded));
    for (int r = 0; r < kRows; r++) {
      if (queries[r].whole) continue;
      const auto first = values.begin() + r * kCols;
      Check({first, first + kCols}, queries[r], top[r]);
    }
  }
}

// A row's answer is the same bit for bit wherever it is and whatever is beside it.
TEST_P(TopLogitsTest, RowsDoNotDependOnEachOther) {
  constexpr int kRows = 40, kCols = 20000;
  const std::vector<float> row = Random(kCols, 2);
  std::vector<float> values = Random(kRows * kCols, 2);
  for (int r : {0, 7, 39}) std::copy(row.begin(), row.end(), values.begin() + r * kCols);
  TestMatrix logits(*backend_, kRows, kCols, kCols, DataType::kFloat32);
  logits.Set(values);
  LogitsQuery query;
  query.whole = false;
  query.temperature = 0.8f;
  query.unit_sum = true;
  const auto memory = backend_->AllocateHost((kRows + 1) * sizeof(TopLogits));
  TopLogits* const top = static_cast<TopLogits*>(memory->data());
  Begin(kRows, /*decode=*/false);
  backend_->SelectTopLogits(logits.matrix(), std::vector<LogitsQuery>(kRows, query), top);
  ASSERT_TRUE(backend_->Synchronize().ok());
  Matrix alone = logits.matrix();
  alone.rows = 1;
  Begin(1, /*decode=*/true);
  backend_->SelectTopLogits(alone, {&query, 1}, top + kRows);
  ASSERT_TRUE(backend_->Synchronize().ok());
  const TopLogits& expected = top[kRows];
  for (int r : {0, 7, 39}) {
    EXPECT_EQ(top[r].sum, expected.sum);
    EXPECT_EQ(top[r].unit_sum, expected.unit_sum);
    ASSERT_EQ(top[r].count, expected.count);
    EXPECT_TRUE(std::equal(top[r].tokens, top[r].tokens + expected.count, expected.tokens));
  }
}

}  // namespace
}  // namespace tauserve
