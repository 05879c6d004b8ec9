// The backward pass of entmax attention, for training. The gradient lives where the weights do: with z_ij the score over
// row i's threshold (kernels/entmax/weight.h), p = z^(1/(alpha-1)), g = p^(2-alpha) and dP = dO V^T,
//     dS_ij = g_ij (dP_ij - sum_j g_ij dP_ij / sum_j g_ij),  dQ = scale dS K,  dK = scale dS^T Q,  dV = P^T dO,
// all over the keys with weight alone. Source: Peters, Niculae, Martins 2019 (arXiv 1905.05702), proposition 2.
//
// Rows whose keys the forward pass kept (kept_support.h) cost what their supports cost: one pass over the rows gathers
// keys and values, one over the keys gathers queries and output gradients, by lists that are made from the rows' ones.
// All other rows are multiplied densely on tensor cores, with the thresholds that the forward pass found.
#ifndef TAUSERVE_KERNELS_CUDA_BACKWARD_H_
#define TAUSERVE_KERNELS_CUDA_BACKWARD_H_

#include <cuda_runtime.h>

#include <cstddef>

#include "kernels/cuda/kept_support.h"
#include "kernels/cuda/training_batch.h"

namespace tauserve::cuda {

// Device pointers unless said. Tensors are contiguous and 16-byte aligned, of __nv_bfloat16 or __half.
template <typename Element>
struct BackwardArgs : TrainingBatch {
  const Element* q = nullptr;      // [num_tokens][num_heads][head_dim]
  const Element* k = nullptr;      // [num_keys][num_kv_heads][head_dim]
  const Element* v = nullptr;      // as k
  const Element* d_out = nullptr;  // as q
  Element* dq = nullptr;           // as q
  Element* dk = nullptr;           // as k
  Element* dv = nullptr;           // as k

  KeptSupport kept;  // as TrainingForward left it
  // The same gradients bit by bit in every run, for about the time of a sort of all keys with weight.
  bool deterministic = false;

  void* workspace = nullptr;  // at least BackwardWorkspaceBytes
  size_t workspace_bytes = 0;
  cudaStream_t stream = nullptr;
};

// Of args' shape and kept.capacity; pointers aren't read.
template <typename Element>
size_t BackwardWorkspaceBytes(const BackwardArgs<Element>& args);

// Writes all of dq, dk and dv. Asynchronous on args.stream. Errors of a launch are kept by CUDA_CHECK.
template <typename Element>
void AttentionBackward(const BackwardArgs<Element>& args);

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_BACKWARD_H_
