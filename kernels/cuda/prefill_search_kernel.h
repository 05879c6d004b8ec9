// The search kernel itself: who does what; and its launch.
#ifndef TAUSERVE_KERNELS_CUDA_PREFILL_SEARCH_KERNEL_H_
#define TAUSERVE_KERNELS_CUDA_PREFILL_SEARCH_KERNEL_H_

#include "kernels/cuda/prefill_launch.h"
#include "kernels/cuda/prefill_row_tile_finish.h"
#include "kernels/cuda/warpgroup_registers.h"

namespace tauserve::cuda {

template <typename Element, int kDim, int kWarpgroups, entmax::Form kForm>
__global__ void __launch_bounds__(SearchShape<kDim, kWarpgroups>::kThreads, 1)
    PrefillSearchKernel(const __grid_constant__ CUtensorMap keys,
                        const __grid_constant__ PrefillParams<Element> p) {
  using Shape = SearchShape<kDim, kWarpgroups>;
  using Control = SearchControl<Shape::kStages, kWarpgroups>;
  static_assert(sizeof(Control) <= Shape::kControlBytes);
  extern __shared__ char shared[];
  char* base = shared + (-SharedAddress(shared) & 1023);
  char* bias_columns = base + Shape::kStages * Shape::kStageBytes;
  char* bitmaps = bias_columns + Shape::kBiasBytes;
  Control& control = *reinterpret_cast<Control*>(bitmaps + Shape::kBitmapBytes);
  const uint32_t entries = SharedAddress(bitmaps + Shape::kBitmapBytes + Shape::kControlBytes);
  if (threadIdx.x == 0) {
    for (int s = 0; s < Shape::kStages; s++) {
      BarrierInit(SharedAddress(&control.full[s]), 1);
      BarrierInit(SharedAddress(&control.empty[s]), kWarpgroups * 4);
    }
    for (int w = 0; w < kWarpgroups; w++) control.stopped[w] = 0;
    for (int w = 0; w < kWarpgroups * 4; w++) control.oldest_key[w] = 0;
    BarrierInitFence();
  }
  WriteBiasColumns<kSearchKeys>(reinterpret_cast<__nv_bfloat16*>(bias_columns), threadIdx.x,
                                Shape::kThreads);
  for (int i = threadIdx.x; i < Shape::kBitmapBytes / 4; i += Shape::kThreads) {
    reinterpret_cast<uint32_t*>(bitmaps)[i] = 0;
  }
  AsyncProxyFence();
  __syncthreads();
  const int warpgroup = Uniform(threadIdx.x / 128), warp = threadIdx.x / 32 % 4,
            lane = threadIdx.x % 32;
  if (warpgroup == kWarpgroups) {
    KeepProducerRegisters<kWarpgroups>();
    if (warp != 0) return;
    SearchProducer<Element, kDim, kWarpgroups> producer{p, &keys, control, SharedAddress(base),
                                                        lane};
    producer.Run();
  } else {
    TakeConsumerRegisters<kWarpgroups>();
    RowTileSearch<Element, kDim, kWarpgroups, kForm> search{
        p,
        control,
        control.block[warpgroup * 4 + warp],
        control.keys[warpgroup * 4 + warp],
        control.row + warpgroup * kTileRows + warp * 16 + lane / 4,
        reinterpret_cast<uint32_t*>(bitmaps) + warpgroup * (kAttendedBits / 32),
        SharedAddress(base) / 16,
        SharedAddress(bias_columns),
        warpgroup,
        warp,
        lane};
    search.lists.bottom = entries + threadIdx.x * 8;
    search.lists.Clear();
    search.Run();
  }
}

template <typename Element>
void LaunchPrefillSearch(const PrefillParams<Element>& p) {
  WithPrefillShape(p, [&]<int kDim, int kWarpgroups, entmax::Form kForm>() {
    using Shape = SearchShape<kDim, kWarpgroups>;
    constexpr auto kKernel = PrefillSearchKernel<Element, kDim, kWarpgroups, kForm>;
    LaunchPersistent<Shape, kKernel>(p.num_blocks * p.parts, p.args.stream,
                                     PageMap(p.args.keys, p.args), p);
  });
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_PREFILL_SEARCH_KERNEL_H_
