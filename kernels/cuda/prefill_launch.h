// Launches of the two prefill kernels (prefill_sm90.h), each in a file of its own: a dozen variants each take long to
// compile.
#ifndef TAUSERVE_KERNELS_CUDA_PREFILL_LAUNCH_H_
#define TAUSERVE_KERNELS_CUDA_PREFILL_LAUNCH_H_

#include <algorithm>

#include "kernels/cuda/allow_shared_bytes.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/current_device.h"
#include "kernels/cuda/kernel_variant.h"
#include "kernels/cuda/page_map.h"
#include "kernels/cuda/prefill_params.h"

namespace tauserve::cuda {

// All blocks of rows; row tiles with too many candidates are marked in p.dense_mask.
void LaunchPrefillSearch(const PrefillParams& p);
// Row tiles that the search left.
void LaunchPrefillDense(const PrefillParams& p);

constexpr int PrefillWarpgroups(int head_dim) { return head_dim <= 128 ? 3 : 2; }

// Calls run.operator()<head_dim, warpgroups, form>() of the launch's head_dim and alphas.
template <typename Run>
void WithPrefillShape(const PrefillParams& p, const Run& run) {
  WithHeadDim(p.args.head_dim, [&]<int kDim>() {
    WithForm(p.args.host_heads, p.args.num_heads, [&]<entmax::Form kForm>() {
      run.template operator()<kDim, PrefillWarpgroups(kDim), kForm>();
    });
  });
}

// A thread block for each of `work` pieces, but no more than multiprocessors: blocks take one piece after another.
template <typename Shape, auto kKernel, typename... Args>
void LaunchPersistent(int work, cudaStream_t stream, const Args&... args) {
  AllowSharedBytes<kKernel>(Shape::kSharedBytes);
  const int grid = std::min(work, CurrentDevice().multiprocessors);
  kKernel<<<grid, Shape::kThreads, Shape::kSharedBytes, stream>>>(args...);
  CUDA_CHECK(cudaGetLastError());
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_PREFILL_LAUNCH_H_
