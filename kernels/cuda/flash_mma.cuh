// The flash kernel's instructions, all of sm_80: asynchronous copies, loads of matrix fragments, products; and tiles of
// 64 rows in swizzled shared memory.
#ifndef TAUSERVE_KERNELS_CUDA_FLASH_MMA_CUH_
#define TAUSERVE_KERNELS_CUDA_FLASH_MMA_CUH_

#include <cstdint>

#include "kernels/cuda/element_pair.cuh"

namespace tauserve::cuda {

// 16 bytes to shared memory, zeros where there is no source.
__device__ __forceinline__ void CopyAsync16(uint32_t shared, const void* global, bool exists) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),
               "r"(exists ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four 8 x 8 matrices of elements; lane l has the address of row l % 8 of matrix l / 8. Lane l gets elements 2 (l % 4) and
// the next of row l / 4 of each matrix, transposed in the second form.
__device__ __forceinline__ void LoadMatrices(uint32_t (&m)[4], uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(shared)
               : "memory");
}
__device__ __forceinline__ void LoadTransposedMatrices(uint32_t (&m)[4], uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(shared)
               : "memory");
}

// c += A B, 16 x 16 times 16 x 8.
template <typename Element = __nv_bfloat16>
__device__ __forceinline__ void MultiplyAdd(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                            uint32_t b1) {
  if constexpr (kIsFloat16<Element>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

// 2^x, subnormal results as zero.
__device__ __forceinline__ float PowerOf2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Rows of kDim elements, 16-byte chunks; chunk c of row r is at place c ^ (r % 8) of its 8, so that 8 rows' same chunks
// are in different banks.
template <int kDim>
struct SwizzledRows {
  static constexpr int kBytes = (kDim + 63) / 64 * 128;  // of a row
  static __device__ __forceinline__ uint32_t Offset(int row, int chunk) {
    return row * kBytes + (chunk & ~7) * 16 + ((chunk ^ row) & 7) * 16;
  }
  // From an address in columns 0 to 15 to the same in columns 16 k on.
  static __device__ __forceinline__ uint32_t Along(uint32_t address, int k) {
    return (address ^ (k % 4 * 32)) + k / 4 * 128;
  }
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_FLASH_MMA_CUH_
