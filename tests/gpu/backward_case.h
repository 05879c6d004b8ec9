// Training cases: packed sequences of random or adversarial queries and keys, their gradients, and a double-precision reference
// of them on the host.
#ifndef TAUSERVE_TESTS_GPU_BACKWARD_CASE_H_
#define TAUSERVE_TESTS_GPU_BACKWARD_CASE_H_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/backward.h"
#include "kernels/cuda/training_forward.h"
#include "tests/gpu/device_memory.h"

namespace tauserve::cuda {

enum class TrainedKeys { kNormal, kEqual, kSink, kFewLarge };

struct BackwardCase {
  std::string name;
  std::vector<std::pair<int, int>> sequences;  // tokens, and keys before them
  int heads = 4, kv_heads = 2, dim = 64;
  std::vector<float> alpha = {1.5f};  // repeated over the heads
  std::vector<float> slope = {0.0f};
  int window = 0;
  bool causal = true;
  float sigma = 2;          // of the logits
  double kept_a_row = 256;  // room for kept entries
  TrainedKeys keys = TrainedKeys::kNormal;
  bool deterministic = false;
  bool float16 = false;  // the tensors' type; else bfloat16
  // Factors of queries (keys are divided by it), of values and of output gradients.
  float query_size = 1, value_size = 1, gradient_size = 1;
};

// All that `backward_check check` runs.
std::vector<BackwardCase> BackwardCases();

struct Gradients {
  std::vector<double> out, dq, dk, dv;
  std::vector<double>
      dq_terms;  // of a row, the norm of the sum of |terms|: what rounding is relative to where they cancel
};

// A case's tensors on the device, of __nv_bfloat16 or __half.
template <typename Element>
class BackwardProblem {
 public:
  explicit BackwardProblem(const BackwardCase& c);

  void Forward() { TrainingForward(forward_); }
  void Backward() { AttentionBackward(backward_); }
  // Fills what the passes write with NaN.
  void Poison();

  Gradients Result() const;
  std::vector<Element> Bits() const;  // dq, dk and dv
  Gradients Reference() const;
  // Per row: keys with weight, and the share whose entries are kept.
  double MeanSupport() const;
  double KeptShare() const;
  int num_rows() const { return forward_.num_tokens * case_.heads; }

 private:
  BackwardCase case_;
  std::vector<TrainedSequence> host_sequences_;
  std::vector<Head> host_heads_;
  DeviceArray<TrainedSequence> sequences_;
  DeviceArray<Head> heads_;
  DeviceArray<Element> q_, k_, v_, out_, d_out_, dq_, dk_, dv_;
  DeviceArray<float> threshold_;
  DeviceArray<int32_t> count_;
  DeviceArray<int64_t> first_;
  DeviceArray<KeptEntry> entries_;
  DeviceArray<unsigned long long> used_;
  DeviceArray<char> workspace_;
  TrainingForwardArgs<Element> forward_;
  BackwardArgs<Element> backward_;
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_TESTS_GPU_BACKWARD_CASE_H_
