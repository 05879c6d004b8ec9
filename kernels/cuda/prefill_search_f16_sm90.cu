#include "kernels/cuda/prefill_search_kernel.h"

namespace tauserve::cuda {

template void LaunchPrefillSearch(const PrefillParams<__half>&);

}  // namespace tauserve::cuda
