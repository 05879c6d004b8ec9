#include "kernels/cuda/prefill_dense_kernel.h"
#include "kernels/cuda/prefill_launch.h"

namespace tauserve::cuda {

void LaunchPrefillDense(const PrefillParams& p) {
  WithPrefillShape(p, [&]<int kDim, int kWarpgroups, entmax::Form kForm>() {
    using Shape = DenseShape<kDim, kWarpgroups>;
    constexpr auto kKernel = PrefillDenseKernel<kDim, kWarpgroups, kForm>;
    LaunchPersistent<Shape, kKernel>(p.num_blocks, p.args.stream, PageMap(p.args.keys, p.args),
                                     PageMap(p.args.values, p.args), p);
  });
}

}  // namespace tauserve::cuda
