#include "kernels/cuda/prefill_dense_kernel.h"

namespace tauserve::cuda {

template void LaunchPrefillDense(const PrefillParams<__half>&);

}  // namespace tauserve::cuda
