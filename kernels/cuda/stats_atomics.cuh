// Adding to AttentionStats from many blocks.
#ifndef TAUSERVE_KERNELS_CUDA_STATS_ATOMICS_CUH_
#define TAUSERVE_KERNELS_CUDA_STATS_ATOMICS_CUH_

#include "kernels/attention.h"

namespace tauserve::cuda {

__device__ __forceinline__ void AddTo(int64_t* counter, int64_t n) {
  if (n != 0) {
    atomicAdd(reinterpret_cast<unsigned long long*>(counter), static_cast<unsigned long long>(n));
  }
}

// For values >= 0, whose bits are ordered as they are.
__device__ __forceinline__ void RaiseTo(double* largest, double value) {
  atomicMax(reinterpret_cast<unsigned long long*>(largest),
            static_cast<unsigned long long>(__double_as_longlong(value)));
}

// A row's places in the histograms, as indices and as counters. (std::array's operator[] is the host's alone.)
__device__ __forceinline__ int SupportBucket(int support) {
  const int bucket = support <= 1 ? 0 : 32 - __clz(support - 1);
  return min(bucket, AttentionStats::kSupportBuckets - 1);
}
__device__ __forceinline__ int IterationBucket(int steps) {
  return min(steps, AttentionStats::kIterationBuckets - 1);
}
__device__ __forceinline__ int64_t* SupportCounter(AttentionStats* stats, int bucket) {
  return reinterpret_cast<int64_t*>(&stats->support_histogram) + bucket;
}
__device__ __forceinline__ int64_t* IterationCounter(AttentionStats* stats, int bucket) {
  return reinterpret_cast<int64_t*>(&stats->iteration_histogram) + bucket;
}

// Whether a row's weights summed up to 1 before they were divided by their sum.
__device__ __forceinline__ bool Converged(float residual) { return residual <= 1e-4f; }

// A row of alpha > 1, beside `rows`.
__device__ __forceinline__ void CountEntmaxRow(AttentionStats* stats, int support, int steps,
                                               float residual) {
  AddTo(&stats->support, support);
  AddTo(&stats->entmax_support, support);
  AddTo(&stats->tau_iterations, steps);
  AddTo(&stats->unconverged_rows, !Converged(residual));
  RaiseTo(&stats->max_tau_residual, residual);
  AddTo(SupportCounter(stats, SupportBucket(support)), 1);
  AddTo(IterationCounter(stats, IterationBucket(steps)), 1);
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_STATS_ATOMICS_CUH_
