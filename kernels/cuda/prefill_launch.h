// Launches of the two prefill kernels (prefill_sm90.h), each in a file of its own: a dozen variants each take long to
// compile.
#ifndef TAUSERVE_KERNELS_CUDA_PREFILL_LAUNCH_H_
#define TAUSERVE_KERNELS_CUDA_PREFILL_LAUNCH_H_

#include <algorithm>

#include "kernels/check.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/current_device.h"
#include "kernels/cuda/page_map.h"
#include "kernels/cuda/prefill_params.h"

namespace tauserve::cuda {

// All blocks of rows; row tiles with too many candidates are marked in p.dense_mask.
void LaunchPrefillSearch(const PrefillParams& p);
// Row tiles that the search left.
void LaunchPrefillDense(const PrefillParams& p);

constexpr int PrefillWarpgroups(int head_dim) { return head_dim <= 128 ? 3 : 2; }

// Calls run.operator()<head_dim, warpgroups, form>() of the launch's head_dim and alphas.
template <int kDim, typename Run>
void WithPrefillForm(const PrefillParams& p, const Run& run) {
  constexpr int kWarpgroups = PrefillWarpgroups(kDim);
  bool square = true, linear = true;
  for (int h = 0; h < p.args.num_heads; h++) {
    const float alpha = p.args.host_heads[h].alpha;
    if (alpha == 1) continue;
    square &= alpha == 1.5f;
    linear &= alpha == 2.0f;
  }
  if (square) {
    run.template operator()<kDim, kWarpgroups, entmax::Form::kSquare>();
  } else if (linear) {
    run.template operator()<kDim, kWarpgroups, entmax::Form::kLinear>();
  } else {
    run.template operator()<kDim, kWarpgroups, entmax::Form::kGeneral>();
  }
}
template <typename Run>
void WithPrefillShape(const PrefillParams& p, const Run& run) {
  switch (p.args.head_dim) {
    case 64:
      return WithPrefillForm<64>(p, run);
    case 96:
      return WithPrefillForm<96>(p, run);
    case 128:
      return WithPrefillForm<128>(p, run);
    case 256:
      return WithPrefillForm<256>(p, run);
    default:
      TAUSERVE_CHECK(false, "head_dim");
  }
}

// A thread block for each of `work` pieces, but no more than multiprocessors: blocks take one piece after another.
template <typename Shape, auto kKernel, typename... Args>
void LaunchPersistent(int work, cudaStream_t stream, const Args&... args) {
  // More shared memory than by default, once a kernel.
  static const bool allowed = [] {
    CUDA_CHECK(cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    Shape::kSharedBytes));
    return true;
  }();
  (void)allowed;
  const int grid = std::min(work, CurrentDevice().multiprocessors);
  kKernel<<<grid, Shape::kThreads, Shape::kSharedBytes, stream>>>(args...);
  CUDA_CHECK(cudaGetLastError());
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_PREFILL_LAUNCH_H_
