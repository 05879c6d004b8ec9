#include "kernels/cuda/prefill_launch.h"
#include "kernels/cuda/prefill_search_kernel.h"

namespace tauserve::cuda {

void LaunchPrefillSearch(const PrefillParams& p) {
  WithPrefillShape(p, [&]<int kDim, int kWarpgroups, entmax::Form kForm>() {
    using Shape = SearchShape<kDim, kWarpgroups>;
    constexpr auto kKernel = PrefillSearchKernel<kDim, kWarpgroups, kForm>;
    LaunchPersistent<Shape, kKernel>(p.num_blocks * p.parts, p.args.stream,
                                     PageMap(p.args.keys, p.args), p);
  });
}

}  // namespace tauserve::cuda
