#include "kernels/cuda/prefill_launch.h"
#include "kernels/cuda/prefill_sm90.h"

namespace tauserve::cuda {

size_t PrefillSm90WorkspaceBytes(int max_rows, int max_slices, int num_heads) {
  // Every slice and KV head may leave one block partly empty.
  const int64_t rows = static_cast<int64_t>(max_rows) * num_heads +
                       static_cast<int64_t>(max_slices) * num_heads * kMostRowsPerBlock;
  const int64_t blocks = rows / kFewestRowsPerBlock + 1;
  return 5 * Workspace::kAlignment + sizeof(PrefillCounters) + (blocks + 4) * sizeof(int32_t) +
         (rows + kMostRowsPerBlock) * sizeof(float) +
         kMaxParted * kMostTilesPerBlock * (sizeof(int32_t) + sizeof(ExchangeSlot));
}

template bool PrefillSm90Supports(const AttentionArgs&);
template void PrefillSm90(const AttentionArgs&);

}  // namespace tauserve::cuda
