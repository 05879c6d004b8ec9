// The oracle of gradients: double precision, as plain as the formula in kernels/attention.h. Only tests use it.
#ifndef TAUSERVE_KERNELS_REFERENCE_ATTENTION_GRADIENT_H_
#define TAUSERVE_KERNELS_REFERENCE_ATTENTION_GRADIENT_H_

#include <vector>

#include "kernels/reference/attention.h"

namespace tauserve::reference {

// Gradients of sum_d dout[d] * forward.out[d], where forward is Attend(row): returns the one by q, and adds those by the
// keys and values to `dk` and `dv`, both shaped as row.keys. Where a score lies on the threshold, its weight's one-sided derivative from below.
std::vector<double> Backward(const Row& row, const RowResult& forward, const double* dout,
                             double* dk, double* dv);

}  // namespace tauserve::reference

#endif  // TAUSERVE_KERNELS_REFERENCE_ATTENTION_GRADIENT_H_
