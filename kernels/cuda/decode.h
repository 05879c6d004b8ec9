// Decode attention on CUDA: slices of up to kMaxDecodeTokens new tokens, exact alpha-entmax for every alpha in (1, 2] and
// softmax, over the paged cache (kernels/attention.h, kernels/cuda/attention_args.h). One launch handles all decode rows
// of a step: keys are read once for all query heads of a KV head (in int8 first where that pays), values only where a
// weight is. Rows with more support than lists hold finish in the same launch, by all blocks together.
//
// Results are the same from run to run. At most one such launch may run on a device at a time: its blocks wait for each
// other.
#ifndef TAUSERVE_KERNELS_CUDA_DECODE_H_
#define TAUSERVE_KERNELS_CUDA_DECODE_H_

#include <cstddef>

#include "kernels/cuda/attention_args.h"
#include "kernels/cuda/decode_plan.h"

namespace tauserve::cuda {

// Whether the kernel takes this layer on the current device: head_dim 64, 96, 128 or 256, sm_80 or newer with 160 KiB of
// shared memory a block.
bool DecodeSupports(const AttentionArgs& args);

// Bytes of AttentionArgs::workspace for a plan; with DecodePlanOptions::max_rows and max_tokens set, for every plan with
// the same options. The contents need not be kept or set.
size_t DecodeWorkspaceBytes(const DecodePlan& plan, int head_dim);

// Computes the plan's rows. `device_plan` holds plan.Serialize()'s bytes in device memory and stays valid until the launch
// has run; later launches may reuse it. Blocks: plan.num_blocks, at most the device's multiprocessors. A captured launch
// may be replayed with the bytes of another plan of the same options and the same use_shadow.
void Decode(const AttentionArgs& args, const DecodePlan& plan, void* device_plan);

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_DECODE_H_
