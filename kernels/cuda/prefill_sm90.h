// Entmax attention of many query rows on Hopper (sm_90a): prompts, and chunks of prompts behind a cached prefix.
//
// One pass over QK^T by wgmma finds, row by row, the keys that can have weight: a score above the row's floor (a proven
// lower bound of its threshold) becomes a candidate, and candidates raise the floor. The exact threshold follows from the
// candidates, the output from their values' rows. Row tiles whose candidates don't fit, or would be slower to gather
// than to multiply, are done by a second kernel with dense products (prefill_dense.h); no input is inexact.
#ifndef TAUSERVE_KERNELS_CUDA_PREFILL_SM90_H_
#define TAUSERVE_KERNELS_CUDA_PREFILL_SM90_H_

#include <cstddef>

#include "kernels/cuda/attention_args.h"

namespace tauserve::cuda {

// Whether PrefillSm90 can run this: a Hopper GPU, head_dim 64, 96, 128 or 256, q and out with rows of 16 bytes.
template <typename Element>
bool PrefillSm90Supports(const AttentionArgsOf<Element>& args);

// Scratch for a step of at most `max_rows` rows in at most `max_slices` slices.
size_t PrefillSm90WorkspaceBytes(int max_rows, int max_slices, int num_heads);

// Writes the output rows of all heads with alpha > 1 of all of args' slices; leaves heads with alpha == 1 alone.
// Asynchronous on args.stream. Errors of a launch abort (CUDA_CHECK).
template <typename Element>
void PrefillSm90(const AttentionArgsOf<Element>& args);

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_PREFILL_SM90_H_
