// A random attention problem with a random gradient of its output, run forwards and backwards on every instruction set of
// the machine and compared with the double-precision oracle.
#ifndef TAUSERVE_TESTS_KERNELS_GRADIENT_CASE_H_
#define TAUSERVE_TESTS_KERNELS_GRADIENT_CASE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/attention.h"
#include "kernels/tensor.h"

namespace tauserve {

struct GradientCase {
  int num_heads = 2;
  int num_kv_heads = 1;
  int head_dim = 64;
  float scale = 0;  // 0: 1 / sqrt(head_dim)
  int sliding_window = 0;
  bool causal = true;
  std::vector<float> alpha = {1.5f};                        // repeated over the heads
  std::vector<float> slope = {0.0f};                        // repeated over the heads
  float sigma = 2;                                          // standard deviation of the scores
  std::vector<std::pair<int, int>> lengths = {{100, 100}};  // queries and keys of each sequence
  // Replaces random queries, keys and values: called with [head_dim] of each key's position and head.
  std::function<void(int token, int head, float* q)> fill_query;
  std::function<void(int token, int head, float* k, float* v)> fill_key;

  std::string ToString() const;
};

// One pass of a case on one instruction set.
struct Gradients {
  std::vector<float> dq, dk, dv,
      tau;  // all sequences, one behind the other: [tokens][heads][head_dim]
};
Gradients RunGradients(const GradientCase& c, DataType kv_type, const std::string& isa, int threads,
                       uint32_t seed);

// Largest error of a row of dq, dk or dv on any instruction set, relative to its norm or, if that is more, the mean norm of
// the rows of the largest of the three. Fails the test (EXPECT) where a threshold is wrong or a gradient was not written.
double GradientError(const GradientCase& c, DataType kv_type, uint32_t seed);

}  // namespace tauserve

#endif  // TAUSERVE_TESTS_KERNELS_GRADIENT_CASE_H_
