// How prefill_sm90.h's functions launch the two prefill kernels, each of which has a file of its own for each element type: a
// dozen variants each take long to compile.
#ifndef TAUSERVE_KERNELS_CUDA_PREFILL_LAUNCH_H_
#define TAUSERVE_KERNELS_CUDA_PREFILL_LAUNCH_H_

#include <algorithm>

#include "kernels/check.h"
#include "kernels/cuda/allow_shared_bytes.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/current_device.h"
#include "kernels/cuda/kernel_variant.h"
#include "kernels/cuda/page_map.h"
#include "kernels/cuda/prefill_params.h"
#include "kernels/cuda/prefill_sm90.h"
#include "kernels/cuda/workspace.h"

namespace tauserve::cuda {

// All blocks of rows; row tiles with too many candidates are marked in p.dense_mask.
template <typename Element>
void LaunchPrefillSearch(const PrefillParams<Element>& p);
// Row tiles that the search left.
template <typename Element>
void LaunchPrefillDense(const PrefillParams<Element>& p);

constexpr int PrefillWarpgroups(int head_dim) { return head_dim <= 128 ? 3 : 2; }

// Calls run.operator()<head_dim, warpgroups, form>() of the launch's head_dim and alphas.
template <typename Element, typename Run>
void WithPrefillShape(const PrefillParams<Element>& p, const Run& run) {
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

inline constexpr int64_t kCacheShare =
    34 << 20;  // bytes of the L2 that keys and values of heads worked on together may take
inline constexpr int kFewestPartKeys = 4096;  // of the longest row, for every part
inline constexpr int kMostRowsPerBlock = 192;
inline constexpr int kMostTilesPerBlock = 3;
inline constexpr int kFewestRowsPerBlock = 128;

// How many thread blocks to a block of rows: where blocks are few and see many keys (a chunk behind a long prefix), the
// smallest number that fills the multiprocessors' last round well.
inline int ChooseParts(int blocks, int most_keys, int multiprocessors) {
  if (blocks >= kMaxParted / 2) return 1;
  int best = 1;
  double best_use = 0;
  for (int parts = 1; parts <= kMaxParts && blocks * parts <= kMaxParted; parts++) {
    if (parts > 1 && most_keys < parts * kFewestPartKeys) break;
    const int rounds = CeilDiv(blocks * parts, multiprocessors);
    const double use = static_cast<double>(blocks * parts) / (rounds * multiprocessors);
    if (use > best_use + 0.05) {
      best = parts;
      best_use = use;
    }
  }
  return best;
}

template <typename Element>
bool PrefillSm90Supports(const AttentionArgsOf<Element>& args) {
  const bool dim =
      args.head_dim == 64 || args.head_dim == 96 || args.head_dim == 128 || args.head_dim == 256;
  return dim && CurrentDevice().hopper && args.q_stride % 8 == 0 && args.out_stride % 8 == 0 &&
         reinterpret_cast<uintptr_t>(args.q) % 16 == 0 &&
         reinterpret_cast<uintptr_t>(args.out) % 16 == 0;
}

template <typename Element>
void PrefillSm90(const AttentionArgsOf<Element>& args) {
  bool any = false;
  for (int h = 0; h < args.num_heads; h++) any |= args.host_heads[h].alpha > 1;
  if (!any || args.num_slices == 0) return;
  TAUSERVE_CHECK(
      PrefillParams<Element>::kServed || (!args.stats && !args.query_scale && !args.page_key_norms),
      "float16 with what serving asks for");
  PrefillParams<Element> p;
  p.args = args;
  p.group = args.num_heads / args.num_kv_heads;
  const int rows = kTileRows * PrefillWarpgroups(args.head_dim);
  p.blocks_per_head = 0;
  int most_keys = 0;
  for (int s = 0; s < args.num_slices; s++) {
    const Slice& slice = args.host_slices[s];
    p.blocks_per_head += BlocksOfSlice(slice, p.group, rows);
    most_keys = std::max(most_keys, slice.context_tokens + slice.num_tokens);
  }
  p.num_blocks = p.blocks_per_head * args.num_kv_heads;
  const int64_t head_bytes = static_cast<int64_t>(most_keys) * args.head_dim * 4;
  p.head_group = static_cast<int>(
      std::clamp<int64_t>(kCacheShare / std::max<int64_t>(head_bytes, 1), 1, args.num_kv_heads));
  p.parts = ChooseParts(p.num_blocks, most_keys, CurrentDevice().multiprocessors);
  const int tiles = p.num_blocks * PrefillWarpgroups(args.head_dim);
  Workspace workspace(args.workspace);
  p.counters = workspace.Take<PrefillCounters>(1);
  p.dense_mask = workspace.Take<int32_t>(p.num_blocks);
  p.merged = workspace.Take<int32_t>(p.parts > 1 ? tiles : 0);
  const size_t zeroed = workspace.bytes();
  p.floors = workspace.Take<float>(static_cast<int64_t>(p.num_blocks) * rows);
  p.exchange = workspace.Take<char>(
      p.parts > 1 ? static_cast<int64_t>(tiles) * p.parts * sizeof(ExchangeSlot) : 0);
  TAUSERVE_CHECK(workspace.bytes() <= args.workspace_bytes, "workspace");
  CUDA_CHECK(cudaMemsetAsync(args.workspace, 0, zeroed, args.stream));
  LaunchPrefillSearch(p);
  LaunchPrefillDense(p);
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_PREFILL_LAUNCH_H_
