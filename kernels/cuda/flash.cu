#include "kernels/check.h"
#include "kernels/cuda/allow_shared_bytes.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/current_device.h"
#include "kernels/cuda/flash.h"
#include "kernels/cuda/flash_kernel.cuh"

namespace tauserve::cuda {
namespace {

template <int kDim>
FlashShapeOf ShapeOf() {
  return {FlashShape<kDim>::kRows, kDim, 1, 2 * CurrentDevice().multiprocessors};
}

template <int kDim>
void Launch(const FlashParams& p) {
  using Shape = FlashShape<kDim>;
  AllowSharedBytes<FlashKernel<kDim>>(Shape::kSharedBytes);
  FlashKernel<kDim>
      <<<p.num_blocks * p.parts, Shape::kThreads, Shape::kSharedBytes, p.args.stream>>>(p);
  CUDA_CHECK(cudaGetLastError());
}

// What to launch for a head dim: its shape, and how.
struct Choice {
  FlashShapeOf shape;
  void (*launch)(const FlashParams&);
};
Choice ChoiceOf(int head_dim) {
  TAUSERVE_CHECK(head_dim % 16 == 0 && head_dim <= 256, "head_dim");
  if (head_dim <= 64) return {ShapeOf<64>(), Launch<64>};
  if (head_dim <= 96) return {ShapeOf<96>(), Launch<96>};
  if (head_dim <= 128) return {ShapeOf<128>(), Launch<128>};
  if (head_dim <= 192) return {ShapeOf<192>(), Launch<192>};
  return {ShapeOf<256>(), Launch<256>};
}

}  // namespace

size_t FlashWorkspaceBytes(const AttentionArgs& args) {
  return MakeFlashParams(args, ChoiceOf(args.head_dim).shape).PartBytes();
}

void Flash(const AttentionArgs& args) {
  const Choice choice = ChoiceOf(args.head_dim);
  FlashParams p = MakeFlashParams(args, choice.shape);
  if (p.num_blocks == 0) return;
  if (args.workspace_bytes < p.PartBytes()) p.parts = 1;
  p.PlaceParts(args.workspace);
  choice.launch(p);
  MergeFlashParts(p);
}

}  // namespace tauserve::cuda
