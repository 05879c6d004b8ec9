#include <algorithm>

#include "kernels/cuda/flash_sm90.h"
#include "kernels/cuda/flash_sm90_tile.cuh"
#include "kernels/cuda/hopper_host.h"
#include "kernels/cuda/warpgroup_registers.h"

namespace tauserve::cuda {
namespace {

template <int kDim>
__global__ void __launch_bounds__(FlashSm90Shape<kDim>::kThreads, 1)
    FlashSm90Kernel(const __grid_constant__ CUtensorMap keys,
                    const __grid_constant__ CUtensorMap values,
                    const __grid_constant__ FlashSm90Params p) {
  using Shape = FlashSm90Shape<kDim>;
  using Control = FlashSm90Control<Shape::kStages>;
  constexpr int kWarpgroups = Shape::kWarpgroups;
  static_assert(sizeof(Control) <= Shape::kControlBytes);
  extern __shared__ char shared[];
  char* const key_tiles = shared + (-SharedAddress(shared) & 1023);
  char* const value_tiles = key_tiles + Shape::kStages * Shape::kTileBytes;
  char* const queries = value_tiles + Shape::kStages * Shape::kTileBytes;
  Control& control = *reinterpret_cast<Control*>(queries + Shape::kQueryBytes);
  FlashSm90Row* const rows =
      reinterpret_cast<FlashSm90Row*>(queries + Shape::kQueryBytes + Shape::kControlBytes);
  if (threadIdx.x == 0) {
    for (int s = 0; s < Shape::kStages; s++) {
      BarrierInit(SharedAddress(&control.key_full[s]), 1);
      BarrierInit(SharedAddress(&control.key_empty[s]), kWarpgroups * 4);
      BarrierInit(SharedAddress(&control.value_full[s]), 1);
      BarrierInit(SharedAddress(&control.value_empty[s]), kWarpgroups * 4);
    }
    for (int i = 0; i < Control::kBlocks; i++) {
      BarrierInit(SharedAddress(&control.block_full[i]), 1);
      BarrierInit(SharedAddress(&control.block_empty[i]), kWarpgroups * 4);
    }
    BarrierInitFence();
  }
  __syncthreads();
  const int warpgroup = __shfl_sync(~0u, threadIdx.x / 128, 0);
  if (warpgroup == kWarpgroups) {
    KeepProducerRegisters<kWarpgroups>();
    if (threadIdx.x % 128 != 0) return;
    FlashSm90Producer<kDim> producer{
        p, &keys, &values, control, SharedAddress(key_tiles), SharedAddress(value_tiles)};
    producer.Run();
  } else {
    TakeConsumerRegisters<kWarpgroups>();
    FlashSm90Tile<kDim> tile{p,
                             control,
                             SharedAddress(key_tiles),
                             SharedAddress(value_tiles),
                             value_tiles,
                             queries + warpgroup * (kTileRows * kDim * 2),
                             rows + warpgroup * kTileRows,
                             warpgroup,
                             static_cast<int>(threadIdx.x / 32 % 4),
                             static_cast<int>(threadIdx.x % 32)};
    tile.Run();
  }
}

template <int kDim>
void Launch(const AttentionArgs& args) {
  using Shape = FlashSm90Shape<kDim>;
  FlashSm90Params p{MakeFlashParams(args, Shape::kRows)};
  if (p.num_blocks == 0) return;
  static const bool configured = CUDA_CHECK(cudaFuncSetAttribute(
      FlashSm90Kernel<kDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kSharedBytes));
  (void)configured;
  TAUSERVE_CHECK(args.workspace_bytes >= FlashSm90WorkspaceBytes(), "workspace");
  p.next_block = static_cast<int32_t*>(args.workspace);
  CUDA_CHECK(cudaMemsetAsync(p.next_block, 0, sizeof(*p.next_block), args.stream));
  const CUtensorMap keys = PageMap(args.keys, args), values = PageMap(args.values, args);
  const int grid = std::min(p.num_blocks, CurrentDevice().multiprocessors);
  FlashSm90Kernel<kDim>
      <<<grid, Shape::kThreads, Shape::kSharedBytes, args.stream>>>(keys, values, p);
  CUDA_CHECK(cudaGetLastError());
}

}  // namespace

bool FlashSm90Supports(const AttentionArgs& args) {
  return args.head_dim <= 128 && CurrentDevice().hopper;
}

size_t FlashSm90WorkspaceBytes() { return sizeof(int32_t); }

void FlashSm90(const AttentionArgs& args) {
  if (args.head_dim <= 64) return Launch<64>(args);
  Launch<128>(args);
}

}  // namespace tauserve::cuda
