// A random attention problem, run through a backend and checked against the double-precision oracle: several sequences
// in one paged cache, prefilled in chunks of any sizes. Unused cache slots hold NaN.
#ifndef TAUSERVE_TESTS_KERNELS_ATTENTION_CASE_H_
#define TAUSERVE_TESTS_KERNELS_ATTENTION_CASE_H_

#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace tauserve {

struct AttentionCase {
  int num_heads = 4;
  int num_kv_heads = 2;
  int head_dim = 64;
  float scale = 0;  // 0: 1 / sqrt(head_dim)
  int sliding_window = 0;
  bool causal = true;                 // false: a token sees all of its step as well
  std::vector<float> alpha = {1.5f};  // repeated over the heads
  std::vector<float> slope = {0.0f};  // repeated over the heads
  bool query_scale = false;           // random scales, negative and zero ones among them
  float sigma = 2;                    // standard deviation of the scores
  // Tokens a step of each sequence; sequence s takes part in step t with steps[s][t] tokens (0: none).
  std::vector<std::vector<int>> steps = {{100}};
  int first_checked = 0;  // tokens before it are not compared with the (slow) oracle
  // Replaces random queries, keys and values; called for every (sequence, token) with [heads * head_dim] rows.
  std::function<void(int sequence, int token, float* q, float* k, float* v)> fill;
};

struct CaseResult {
  double worst_error = 0;  // largest ||out - ref|| / ||ref|| of a row
  AttentionStats stats;
  std::vector<std::vector<float>> out;  // [sequence][token * heads * head_dim]
};

// Fails the test (EXPECT) where statistics contradict the oracle's.
CaseResult RunCase(Backend& backend, const AttentionCase& c, DataType kv_type, uint32_t seed);

}  // namespace tauserve

#endif  // TAUSERVE_TESTS_KERNELS_ATTENTION_CASE_H_
