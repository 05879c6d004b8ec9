#include "kernels/cuda/prefill_dense_kernel.h"

namespace tauserve::cuda {

template void LaunchPrefillDense(const PrefillParams<__nv_bfloat16>&);

}  // namespace tauserve::cuda
