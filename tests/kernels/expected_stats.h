// What attention's statistics must be, counted from the oracle's weights. A key whose margin to tau is within float32's
// rounding may be counted or not, so that some of them are known as a range.
#ifndef TAUSERVE_TESTS_KERNELS_EXPECTED_STATS_H_
#define TAUSERVE_TESTS_KERNELS_EXPECTED_STATS_H_

#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "kernels/attention.h"
#include "kernels/reference/attention.h"

namespace tauserve {

// Sequence, step, head, and 64 positions of queries (-1: all of the step's) that are counted together.
using StatsBlock = std::array<int, 4>;

class ExpectedStats {
 public:
  void Add(const StatsBlock& block, const reference::Row& row, const reference::RowResult& result);
  // A row that the oracle did not look at: any of its keys may have weight.
  void AddUnknown(const StatsBlock& block, const reference::Row& row);

  // Fails the test (EXPECT) where `stats` contradict what was added; `blocks`: the number of blocks too.
  void Check(const AttentionStats& stats, bool blocks) const;

 private:
  struct Range {
    int64_t least = 0, most = 0;
  };
  enum class Page : uint8_t { kHidden, kSeen, kMayHaveWeight, kHasWeight };

  void See(const StatsBlock& block, const reference::Row& row);
  void Raise(const StatsBlock& block, int key, Page to);

  int64_t keys_considered_ = 0, entmax_rows_ = 0;
  Range support_, entmax_support_;
  std::map<StatsBlock, std::vector<Page>> pages_;
};

}  // namespace tauserve

#endif  // TAUSERVE_TESTS_KERNELS_EXPECTED_STATS_H_
