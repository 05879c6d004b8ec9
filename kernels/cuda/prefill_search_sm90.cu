#include "kernels/cuda/prefill_search_kernel.h"

namespace tauserve::cuda {

template void LaunchPrefillSearch(const PrefillParams<__nv_bfloat16>&);

}  // namespace tauserve::cuda
