// The forward pass of entmax attention for training: packed sequences in, the output and what the backward pass needs out.
#ifndef TAUSERVE_KERNELS_CUDA_TRAINING_FORWARD_H_
#define TAUSERVE_KERNELS_CUDA_TRAINING_FORWARD_H_

#include <cuda_runtime.h>

#include <cstddef>

#include "kernels/cuda/kept_support.h"
#include "kernels/cuda/training_batch.h"

namespace tauserve::cuda {

// Device pointers. Tensors are contiguous and 16-byte aligned, of __nv_bfloat16 or __half.
template <typename Element>
struct TrainingForwardArgs : TrainingBatch {
  const Element* q = nullptr;  // [num_tokens][num_heads][head_dim]
  const Element* k = nullptr;  // [num_keys][num_kv_heads][head_dim]
  const Element* v = nullptr;  // as k
  Element* out = nullptr;      // as q
  KeptSupport kept;            // first_key and the zero in `used` are set here

  void* workspace = nullptr;  // at least TrainingForwardWorkspaceBytes; free again after the pass
  size_t workspace_bytes = 0;
  cudaStream_t stream = nullptr;
};

// Whether the current GPU runs it: Hopper.
bool TrainingSupported();

// Of args' shape; pointers to tensors aren't read.
template <typename Element>
size_t TrainingForwardWorkspaceBytes(const TrainingForwardArgs<Element>& args);

// Writes out and kept. Asynchronous on args.stream. Errors of a launch are kept by CUDA_CHECK.
template <typename Element>
void TrainingForward(const TrainingForwardArgs<Element>& args);

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_TRAINING_FORWARD_H_
