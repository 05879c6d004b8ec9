// How both flash kernels cut their work into blocks, on the host.
#ifndef TAUSERVE_KERNELS_CUDA_FLASH_PARAMS_H_
#define TAUSERVE_KERNELS_CUDA_FLASH_PARAMS_H_

#include <algorithm>

#include "kernels/cuda/attention_args.h"
#include "kernels/cuda/prefill_plan.h"

namespace tauserve::cuda {

// The rows of a slice and KV head are its (token, softmax head of the KV head) pairs, token by token.
struct FlashParams {
  AttentionArgs args;
  int group = 0;  // the most softmax heads of a KV head; rows of heads that others lack are dead
  int blocks_per_head = 0;
  int num_blocks = 0;
  int head_group = 1;  // KV heads worked on together
};

// num_blocks is 0 where no head is a softmax head.
inline FlashParams MakeFlashParams(const AttentionArgs& args, int rows_per_block) {
  // Of the L2, for keys and values of heads worked on together.
  constexpr int64_t kCacheShare = 34 << 20;
  FlashParams p;
  p.args = args;
  const int heads = args.num_heads / args.num_kv_heads;
  for (int kv = 0; kv < args.num_kv_heads; kv++) {
    const Head* const first = args.host_heads + kv * heads;
    const auto softmax =
        std::count_if(first, first + heads, [](const Head& head) { return head.alpha == 1; });
    p.group = std::max(p.group, static_cast<int>(softmax));
  }
  int64_t most_keys = 1;
  for (int s = 0; s < args.num_slices; s++) {
    const Slice& slice = args.host_slices[s];
    p.blocks_per_head += BlocksOfSlice(slice, p.group, rows_per_block);
    most_keys = std::max<int64_t>(most_keys, slice.context_tokens + slice.num_tokens);
  }
  p.num_blocks = p.blocks_per_head * args.num_kv_heads;
  p.head_group = static_cast<int>(
      std::clamp<int64_t>(kCacheShare / (most_keys * args.head_dim * 4), 1, args.num_kv_heads));
  return p;
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_FLASH_PARAMS_H_
