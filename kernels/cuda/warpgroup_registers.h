// How consumers and the producer share a multiprocessor's registers.
#ifndef TAUSERVE_KERNELS_CUDA_WARPGROUP_REGISTERS_H_
#define TAUSERVE_KERNELS_CUDA_WARPGROUP_REGISTERS_H_

namespace tauserve::cuda {

// Registers a thread of consumers and producers, so that 64k are enough.
template <int kWarpgroups>
__device__ __forceinline__ void TakeConsumerRegisters() {
  static_assert(kWarpgroups == 2 || kWarpgroups == 3);
  if constexpr (kWarpgroups == 3) asm volatile("setmaxnreg.inc.sync.aligned.u32 160;");
  if constexpr (kWarpgroups == 2) asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
}
template <int kWarpgroups>
__device__ __forceinline__ void KeepProducerRegisters() {
  if constexpr (kWarpgroups == 3) asm volatile("setmaxnreg.dec.sync.aligned.u32 32;");
  if constexpr (kWarpgroups == 2) asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_WARPGROUP_REGISTERS_H_
