// The flash kernel itself: a part of a block of query rows a thread block.
#ifndef TAUSERVE_KERNELS_CUDA_FLASH_KERNEL_CUH_
#define TAUSERVE_KERNELS_CUDA_FLASH_KERNEL_CUH_

#include "kernels/cuda/flash_tile.cuh"

namespace tauserve::cuda {

template <int kDim>
__global__ void __launch_bounds__(FlashShape<kDim>::kThreads, 2)
    FlashKernel(const __grid_constant__ FlashParams p) {
  extern __shared__ __align__(128) char shared[];
  const Block block = FlashBlockAt(p, blockIdx.x / p.parts);
  const Slice slice = p.args.slices[block.slice];
  const int part = blockIdx.x % p.parts;
  const FlashTiles tiles = TilesOf(p, slice, block.first_row, part);
  if (part >= tiles.parts || !HasSoftmaxHead(p.args, block.kv_head)) return;
  FlashTile<kDim> tile{p,
                       slice,
                       part == 0 && p.args.stats ? p.args.stats + block.slice : nullptr,
                       block.kv_head,
                       block.first_row,
                       tiles,
                       static_cast<int>(blockIdx.x),
                       static_cast<uint32_t>(__cvta_generic_to_shared(shared))};
  tile.Run();
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_FLASH_KERNEL_CUH_
