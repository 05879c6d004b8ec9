#include "kernels/cuda/prefill_dense_kernel.h"
#include "kernels/cuda/prefill_launch.h"

namespace tauserve::cuda {

void LaunchPrefillDense(const PrefillParams& p) {
  WithPrefillShape(p, [&]<int kDim, int kWarpgroups, entmax::Form kForm>() {
    using Shape = DenseShape<kDim, kWarpgroups>;
    constexpr auto kKernel = PrefillDenseKernel<kDim, kWarpgroups, kForm>;
    AllowSharedBytes<kKernel>(Shape::kSharedBytes);
    const int grid = std::min(p.num_blocks, CurrentDevice().multiprocessors);
    kKernel<<<grid, Shape::kThreads, Shape::kSharedBytes, p.args.stream>>>(
        PageMap(p.args.keys, p.args), PageMap(p.args.values, p.args), p);
    CUDA_CHECK(cudaGetLastError());
  });
}

}  // namespace tauserve::cuda
