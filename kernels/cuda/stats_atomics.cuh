// Adding to AttentionStats from many blocks.
#ifndef TAUSERVE_KERNELS_CUDA_STATS_ATOMICS_CUH_
#define TAUSERVE_KERNELS_CUDA_STATS_ATOMICS_CUH_

#include "kernels/attention.h"

namespace tauserve::cuda {

__device__ inline void AddTo(int64_t& counter, int64_t n) {
  if (n != 0) atomicAdd(reinterpret_cast<unsigned long long*>(&counter), n);
}

// For values >= 0, whose bits are ordered as they are.
__device__ inline void RaiseTo(double& largest, double value) {
  atomicMax(reinterpret_cast<unsigned long long*>(&largest), __double_as_longlong(value));
}

// Beside `rows` and `support`, a row of alpha > 1 whose weights summed up to `sum` before they were divided by it.
__device__ inline void CountEntmaxRow(int64_t support, int steps, float sum,
                                      AttentionStats& stats) {
  const float residual = fabsf(sum - 1);
  AddTo(stats.entmax_support, support);
  AddTo(stats.tau_iterations, steps);
  AddTo(stats.unconverged_rows, !(residual <= 1e-4f));
  RaiseTo(stats.max_tau_residual, residual);
  const int bucket = support <= 1 ? 0 : 64 - __clzll(support - 1);
  AddTo(stats.support_histogram[min(bucket, AttentionStats::kSupportBuckets - 1)], 1);
  AddTo(stats.iteration_histogram[min(steps, AttentionStats::kIterationBuckets - 1)], 1);
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_STATS_ATOMICS_CUH_
