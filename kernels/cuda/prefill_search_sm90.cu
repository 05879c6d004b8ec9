#include "kernels/cuda/prefill_launch.h"
#include "kernels/cuda/prefill_search_kernel.h"

namespace tauserve::cuda {

void LaunchPrefillSearch(const PrefillParams& p) {
  WithPrefillShape(p, [&]<int kDim, int kWarpgroups, entmax::Form kForm>() {
    using Shape = SearchShape<kDim, kWarpgroups>;
    constexpr auto kKernel = PrefillSearchKernel<kDim, kWarpgroups, kForm>;
    AllowSharedBytes<kKernel>(Shape::kSharedBytes);
    const int grid = std::min(p.num_blocks * p.parts, CurrentDevice().multiprocessors);
    kKernel<<<grid, Shape::kThreads, Shape::kSharedBytes, p.args.stream>>>(
        PageMap(p.args.keys, p.args), p);
    CUDA_CHECK(cudaGetLastError());
  });
}

}  // namespace tauserve::cuda
