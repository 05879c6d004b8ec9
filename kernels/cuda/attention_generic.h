// Entmax attention for every shape that kernels/attention.h allows: any alpha > 1, head_dim, length and mask. Softmax
// heads are left alone (flash.h). It keeps nothing of a row but its state and reads the keys once for the maximum, once
// for a histogram of many scores, once for each step of the threshold's search and once for the output, so no input
// overflows anything. The kernels made for common shapes are faster; this one is what they are checked against and fall
// back to.
#ifndef TAUSERVE_KERNELS_CUDA_ATTENTION_GENERIC_H_
#define TAUSERVE_KERNELS_CUDA_ATTENTION_GENERIC_H_

#include "kernels/cuda/attention_args.h"

namespace tauserve::cuda {

// All rows of the step. Needs no workspace. Results don't depend on what else is in the step.
void AttentionGeneric(const AttentionArgs& args);

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_ATTENTION_GENERIC_H_
