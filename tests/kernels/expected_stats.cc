#include "tests/kernels/expected_stats.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace tauserve {
namespace {

// How far float32's rounding may move a margin: of scores, which are sums of head_dim products, and of tau.
double MarginError(const reference::Row& row) {
  double q = 0, k = 0;
  for (int d = 0; d < row.head_dim; d++) q += row.q[d] * row.q[d];
  for (int j = row.first; j < row.last; j++) {
    double norm = 0;
    for (int d = 0; d < row.head_dim; d++) {
      norm += row.keys[j * row.head_dim + d] * row.keys[j * row.head_dim + d];
    }
    k = std::max(k, norm);
  }
  const double bias = row.alibi_slope * (row.last - row.first);
  return 3e-6 +
         2e-6 * (row.alpha - 1) * (std::abs(row.score_scale) * std::sqrt(q) * std::sqrt(k) + bias);
}

}  // namespace

void ExpectedStats::See(const StatsBlock& block, const reference::Row& row) {
  keys_considered_ += row.last - row.first;
  entmax_rows_ += row.alpha > 1;
  for (int page = row.first / kPageTokens; page <= (row.last - 1) / kPageTokens; page++) {
    Raise(block, page * kPageTokens, Page::kSeen);
  }
}

void ExpectedStats::Raise(const StatsBlock& block, int key, Page to) {
  std::vector<Page>& pages = pages_[block];
  const size_t page = key / kPageTokens;
  if (pages.size() <= page) pages.resize(page + 1, Page::kHidden);
  pages[page] = std::max(pages[page], to);
}

void ExpectedStats::Add(const StatsBlock& block, const reference::Row& row,
                        const reference::RowResult& result) {
  See(block, row);
  if (row.alpha == 1) {
    support_.least += row.last - row.first;
    support_.most += row.last - row.first;
    for (int j = row.first; j < row.last; j++) Raise(block, j, Page::kHasWeight);
    return;
  }
  const double error = MarginError(row);
  Range support;
  for (int j = row.first; j < row.last; j++) {
    const double margin = result.margins[j - row.first];
    // A weight too small for float32 is zero.
    const bool surely = margin > error && result.weights[j - row.first] > 1e-37;
    if (margin <= -error) continue;
    support.least += surely;
    support.most++;
    Raise(block, j, surely ? Page::kHasWeight : Page::kMayHaveWeight);
  }
  support_.least += support.least;
  support_.most += support.most;
  entmax_support_.least += support.least;
  entmax_support_.most += support.most;
}

void ExpectedStats::AddUnknown(const StatsBlock& block, const reference::Row& row) {
  See(block, row);
  const int64_t keys = row.last - row.first;
  support_.least += row.alpha == 1 ? keys : 1;
  support_.most += keys;
  if (row.alpha > 1) {
    entmax_support_.least++;
    entmax_support_.most += keys;
  }
  for (int page = row.first / kPageTokens; page <= (row.last - 1) / kPageTokens; page++) {
    Raise(block, page * kPageTokens, row.alpha == 1 ? Page::kHasWeight : Page::kMayHaveWeight);
  }
}

void ExpectedStats::Check(const AttentionStats& stats, bool blocks) const {
  int64_t considered = 0;
  Range attended;
  for (const auto& [block, pages] : pages_) {
    for (Page page : pages) {
      considered += page != Page::kHidden;
      attended.least += page == Page::kHasWeight;
      attended.most += page >= Page::kMayHaveWeight;
    }
  }
  EXPECT_EQ(stats.keys_considered, keys_considered_);
  EXPECT_EQ(stats.rows, entmax_rows_);
  EXPECT_GE(stats.support, support_.least);
  EXPECT_LE(stats.support, support_.most);
  EXPECT_GE(stats.entmax_support, entmax_support_.least);
  EXPECT_LE(stats.entmax_support, entmax_support_.most);
  if (blocks) {
    EXPECT_EQ(stats.blocks_considered, considered);
    EXPECT_GE(stats.blocks_attended, attended.least);
    EXPECT_LE(stats.blocks_attended, attended.most);
  }
  EXPECT_LE(stats.blocks_attended, stats.blocks_scored);
  EXPECT_LE(stats.blocks_scored, stats.blocks_considered);
  EXPECT_GE(stats.keys_scored, stats.support);
  EXPECT_LE(stats.keys_scored, stats.keys_considered);
  EXPECT_LE(stats.pages_read, stats.pages_considered);
  int64_t rows = 0, iterated = 0;
  for (int64_t n : stats.support_histogram) rows += n;
  for (int64_t n : stats.iteration_histogram) iterated += n;
  EXPECT_EQ(rows, stats.rows);
  EXPECT_EQ(iterated, stats.rows);
}

}  // namespace tauserve
