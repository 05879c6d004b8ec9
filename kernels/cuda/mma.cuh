// Products of tensor cores and waits on shared barriers that several kernels make alike, from sm_80 on.
#ifndef TAUSERVE_KERNELS_CUDA_MMA_CUH_
#define TAUSERVE_KERNELS_CUDA_MMA_CUH_

#include <cstdint>

namespace tauserve::cuda {

// c += a b, 16 x 8 x 16, bf16 operands, float32 sums.
__device__ __forceinline__ void MmaBf16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                        uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Until the phase of that parity of the mbarrier at a shared address is over.
__device__ __forceinline__ void WaitBarrier(uint32_t barrier, int parity) {
  uint32_t done = 0;
  while (!done) {
    asm volatile(
        "{\n .reg .pred p;\n"
#if __CUDA_ARCH__ >= 900
        " mbarrier.try_wait.parity.shared.b64 p, [%1], %2;\n"
#else
        " mbarrier.test_wait.parity.shared.b64 p, [%1], %2;\n"
#endif
        " selp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  }
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_MMA_CUH_
