// The backward pass's share of rows that the forward pass did not keep.
#ifndef TAUSERVE_KERNELS_CUDA_BACKWARD_DENSE_H_
#define TAUSERVE_KERNELS_CUDA_BACKWARD_DENSE_H_

#include "kernels/cuda/backward_params.h"

namespace tauserve::cuda {

// Writes their dQ; adds to dK and dV, which must be complete otherwise.
template <typename Element>
void BackwardDense(const BackwardParams<Element>& p);

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_BACKWARD_DENSE_H_
