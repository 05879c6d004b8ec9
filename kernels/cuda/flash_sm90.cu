#include <algorithm>

#include "kernels/cuda/allow_shared_bytes.h"
#include "kernels/cuda/current_device.h"
#include "kernels/cuda/flash_sm90.h"
#include "kernels/cuda/flash_sm90_tile.cuh"
#include "kernels/cuda/page_map.h"
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
    for (int i = 0; i < Control::kParts; i++) {
      BarrierInit(SharedAddress(&control.part_full[i]), 1);
      BarrierInit(SharedAddress(&control.part_empty[i]), kWarpgroups * 4);
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
FlashShapeOf ShapeOf() {
  using Shape = FlashSm90Shape<kDim>;
  return {Shape::kRows, kDim, Shape::kTilePages, CurrentDevice().multiprocessors};
}

template <int kDim>
void Launch(const FlashSm90Params& p) {
  using Shape = FlashSm90Shape<kDim>;
  AllowSharedBytes<FlashSm90Kernel<kDim>>(Shape::kSharedBytes);
  const CUtensorMap keys = PageMap(p.args.keys, p.args), values = PageMap(p.args.values, p.args);
  const int grid = std::min(p.num_blocks * p.parts, CurrentDevice().multiprocessors);
  FlashSm90Kernel<kDim>
      <<<grid, Shape::kThreads, Shape::kSharedBytes, p.args.stream>>>(keys, values, p);
  CUDA_CHECK(cudaGetLastError());
}

// What to launch for a head dim: its shape, and how.
struct Choice {
  FlashShapeOf shape;
  void (*launch)(const FlashSm90Params&);
};
Choice ChoiceOf(int head_dim) {
  TAUSERVE_CHECK(head_dim % 16 == 0 && head_dim <= 256, "head_dim");
  if (head_dim <= 64) return {ShapeOf<64>(), Launch<64>};
  if (head_dim <= 128) return {ShapeOf<128>(), Launch<128>};
  return {ShapeOf<256>(), Launch<256>};
}

constexpr size_t kCounterBytes = 16;  // keeps what follows aligned

}  // namespace

bool FlashSm90Supports() { return CurrentDevice().hopper; }

size_t FlashSm90WorkspaceBytes(const AttentionArgs& args) {
  return kCounterBytes + MakeFlashParams(args, ChoiceOf(args.head_dim).shape).PartBytes();
}

void FlashSm90(const AttentionArgs& args) {
  const Choice choice = ChoiceOf(args.head_dim);
  FlashSm90Params p{MakeFlashParams(args, choice.shape)};
  if (p.num_blocks == 0) return;
  TAUSERVE_CHECK(args.workspace_bytes >= kCounterBytes + p.PartBytes(), "workspace");
  p.next_part = static_cast<int32_t*>(args.workspace);
  p.PlaceParts(static_cast<char*>(args.workspace) + kCounterBytes);
  CUDA_CHECK(cudaMemsetAsync(p.next_part, 0, sizeof(*p.next_part), args.stream));
  choice.launch(p);
  MergeFlashParts(p);
}

}  // namespace tauserve::cuda
