#include "kernels/attention.h"

#include <algorithm>

namespace tauserve {

void AttentionStats::Add(const AttentionStats& other) {
  rows += other.rows;
  keys_considered += other.keys_considered;
  keys_scored += other.keys_scored;
  support += other.support;
  blocks_considered += other.blocks_considered;
  blocks_scored += other.blocks_scored;
  blocks_attended += other.blocks_attended;
  pages_considered += other.pages_considered;
  pages_read += other.pages_read;
  kv_bytes_read += other.kv_bytes_read;
  entmax_support += other.entmax_support;
  tau_iterations += other.tau_iterations;
  wide_rows += other.wide_rows;
  unconverged_rows += other.unconverged_rows;
  max_tau_residual = std::max(max_tau_residual, other.max_tau_residual);
  for (int b = 0; b < kSupportBuckets; b++) support_histogram[b] += other.support_histogram[b];
  for (int b = 0; b < kIterationBuckets; b++)
    iteration_histogram[b] += other.iteration_histogram[b];
}

}  // namespace tauserve
