// What training's forward and backward pass both know of a batch of packed sequences.
#ifndef TAUSERVE_KERNELS_CUDA_TRAINING_BATCH_H_
#define TAUSERVE_KERNELS_CUDA_TRAINING_BATCH_H_

#include <cstdint>

#include "kernels/cuda/slice.h"

namespace tauserve::cuda {

// A sequence's tokens and keys among those of all sequences. Its last token's position is its last key's.
struct TrainedSequence {
  int32_t first_token = 0;
  int32_t num_tokens = 0;
  int32_t first_key = 0;
  int32_t num_keys = 0;  // at least num_tokens
};

struct TrainingBatch {
  const TrainedSequence* sequences = nullptr;       // [num_sequences], device memory
  const TrainedSequence* host_sequences = nullptr;  // the same in host memory
  int num_sequences = 0;
  int num_tokens = 0;
  int num_keys = 0;  // at most kMostKeptKeys (kept_support.h)

  const Head* heads = nullptr;       // [num_heads], alpha in (1, 2]; device memory
  const Head* host_heads = nullptr;  // the same in host memory
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;        // 64, 96, 128 or 256
  float scale = 1;         // of the scores, > 0
  int sliding_window = 0;  // 0 = none
  bool causal = true;
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_TRAINING_BATCH_H_
