// The dense kernel itself: who does what; and its launch.
#ifndef TAUSERVE_KERNELS_CUDA_PREFILL_DENSE_KERNEL_H_
#define TAUSERVE_KERNELS_CUDA_PREFILL_DENSE_KERNEL_H_

#include "kernels/cuda/prefill_dense_tile_finish.h"
#include "kernels/cuda/prefill_launch.h"
#include "kernels/cuda/warpgroup_registers.h"

namespace tauserve::cuda {

template <typename Element, int kDim, int kWarpgroups, entmax::Form kForm>
__global__ void __launch_bounds__(DenseShape<kDim, kWarpgroups>::kThreads, 1)
    PrefillDenseKernel(const __grid_constant__ CUtensorMap keys,
                       const __grid_constant__ CUtensorMap values,
                       const __grid_constant__ PrefillParams<Element> p) {
  using Shape = DenseShape<kDim, kWarpgroups>;
  using Control = DenseControl<Shape::kStages, kWarpgroups>;
  static_assert(sizeof(Control) <= Shape::kControlBytes);
  extern __shared__ char shared[];
  char* base = shared + (-SharedAddress(shared) & 1023);
  char* queries = base + Shape::kStages * 2 * Shape::kKeyBytes;
  char* bias_columns = queries + Shape::kQueryBytes;
  Control& control = *reinterpret_cast<Control*>(bias_columns + Shape::kBiasBytes);
  char* bitmaps = bias_columns + Shape::kBiasBytes + Shape::kControlBytes;
  uint32_t* live = reinterpret_cast<uint32_t*>(bitmaps);
  if (threadIdx.x == 0) {
    for (int s = 0; s < Shape::kStages; s++) {
      BarrierInit(SharedAddress(&control.full[s]), 1);
      BarrierInit(SharedAddress(&control.empty[s]), kWarpgroups * 4);
    }
    BarrierInit(SharedAddress(&control.votes), kWarpgroups * 4);
    BarrierInit(SharedAddress(&control.scrub), 1);
    BarrierInitFence();
  }
  WriteBiasColumns<Shape::kStagePages * kPageTokens>(reinterpret_cast<__nv_bfloat16*>(bias_columns),
                                                     threadIdx.x, Shape::kThreads);
  AsyncProxyFence();
  __syncthreads();
  const int warpgroup = Uniform(threadIdx.x / 128), warp = threadIdx.x / 32 % 4,
            lane = threadIdx.x % 32;
  if (warpgroup == kWarpgroups) {
    KeepProducerRegisters<kWarpgroups>();
    if (warp != 0) return;
    DenseProducer<Element, kDim, kWarpgroups> producer{p,    &keys, &values, control,
                                                       base, live,  lane};
    producer.Run();
  } else {
    TakeConsumerRegisters<kWarpgroups>();
    DenseRowTile<Element, kDim, kWarpgroups, kForm> tile{
        p,
        control,
        live,
        reinterpret_cast<uint32_t*>(bitmaps + (1 + warpgroup) * Shape::kBitmapBytes),
        SharedAddress(base),
        queries + warpgroup * (kTileRows * kDim * 2),
        PlainDescriptor(SharedAddress(bias_columns), 128, 256),
        warpgroup,
        warp,
        lane};
    tile.Run();
  }
}

template <typename Element>
void LaunchPrefillDense(const PrefillParams<Element>& p) {
  WithPrefillShape(p, [&]<int kDim, int kWarpgroups, entmax::Form kForm>() {
    using Shape = DenseShape<kDim, kWarpgroups>;
    constexpr auto kKernel = PrefillDenseKernel<Element, kDim, kWarpgroups, kForm>;
    LaunchPersistent<Shape, kKernel>(p.num_blocks, p.args.stream, PageMap(p.args.keys, p.args),
                                     PageMap(p.args.values, p.args), p);
  });
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_PREFILL_DENSE_KERNEL_H_
