#include "kernels/check.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/flash.h"
#include "kernels/cuda/flash_tile.cuh"

namespace tauserve::cuda {
namespace {

template <int kDim>
void Launch(const AttentionArgs& args) {
  using Shape = FlashShape<kDim>;
  const FlashParams p = MakeFlashParams(args, Shape::kRows);
  if (p.num_blocks == 0) return;
  static const bool configured = CUDA_CHECK(cudaFuncSetAttribute(
      FlashKernel<kDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kSharedBytes));
  (void)configured;
  FlashKernel<kDim><<<p.num_blocks, Shape::kThreads, Shape::kSharedBytes, args.stream>>>(p);
  CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void Flash(const AttentionArgs& args) {
  TAUSERVE_CHECK(args.head_dim % 16 == 0 && args.head_dim <= 256, "head_dim");
  if (args.head_dim <= 64) return Launch<64>(args);
  if (args.head_dim <= 96) return Launch<96>(args);
  if (args.head_dim <= 128) return Launch<128>(args);
  if (args.head_dim <= 192) return Launch<192>(args);
  Launch<256>(args);
}

}  // namespace tauserve::cuda
