// Hopper's asynchronous machinery as plain functions: mbarriers, the bulk tensor copy (TMA), and warpgroup matrix
// products (wgmma). PTX ISA 8.0, sections 9.7.13 (mbarrier), 9.7.9.27 (cp.async.bulk.tensor), 9.7.15 (wgmma). sm_90a.
#ifndef TAUSERVE_KERNELS_CUDA_HOPPER_H_
#define TAUSERVE_KERNELS_CUDA_HOPPER_H_

#include <cuda.h>

#include <cstdint>

#include "kernels/cuda/element_pair.cuh"

namespace tauserve::cuda {

__device__ __forceinline__ uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// ---- mbarrier: `count` arrivals, and all announced bytes, complete a phase; phases alternate in parity.

__device__ __forceinline__ void BarrierInit(uint32_t barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count));
}

// Makes initialised barriers visible to the copy engine; before the block's first __syncthreads.
__device__ __forceinline__ void BarrierInitFence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void BarrierArrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void BarrierArriveExpect(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

// Waits for the end of the phase of this parity. The hint lets the hardware suspend the warp for 10 ms at a time.
__device__ __forceinline__ void BarrierWait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred p;\nWAIT_%=:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1, 0x989680;\n"
      "@p bra DONE_%=;\nbra WAIT_%=;\nDONE_%=:\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// Whether that phase has ended.
__device__ __forceinline__ bool BarrierTest(uint32_t barrier, uint32_t parity) {
  int ended;
  asm volatile(
      "{\n.reg .pred p;\nmbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.b32 %0, 1, 0, p;\n}"
      : "=r"(ended)
      : "r"(barrier), "r"(parity)
      : "memory");
  return ended != 0;
}

// Shared memory that threads read and write without a barrier between: any of the values written will do.
__device__ __forceinline__ void StoreRelaxed(int32_t* to, int32_t x) {
  asm volatile("st.relaxed.cta.shared.b32 [%0], %1;" ::"r"(SharedAddress(to)), "r"(x) : "memory");
}
__device__ __forceinline__ void StoreRelaxed(int64_t* to, int64_t x) {
  asm volatile("st.relaxed.cta.shared.b64 [%0], %1;" ::"r"(SharedAddress(to)), "l"(x) : "memory");
}
__device__ __forceinline__ int32_t LoadRelaxed(const int32_t* from) {
  int32_t x;
  asm volatile("ld.relaxed.cta.shared.b32 %0, [%1];"
               : "=r"(x)
               : "r"(SharedAddress(from))
               : "memory");
  return x;
}
__device__ __forceinline__ int64_t LoadRelaxed(const int64_t* from) {
  int64_t x;
  asm volatile("ld.relaxed.cta.shared.b64 %0, [%1];"
               : "=l"(x)
               : "r"(SharedAddress(from))
               : "memory");
  return x;
}

// Barrier `id` (1 to 15) among the 128 threads of a warpgroup.
__device__ __forceinline__ void WarpgroupSync(int id) {
  asm volatile("bar.sync %0, 128;" ::"r"(id) : "memory");
}

// The same, and how many of the threads have `x`.
__device__ __forceinline__ int WarpgroupCount(int id, bool x) {
  int count;
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %2, 0;\nbarrier.cta.red.popc.aligned.u32 %0, %1, 128, p;\n}"
      : "=r"(count)
      : "r"(id), "r"(static_cast<int>(x))
      : "memory");
  return count;
}

// Ordinary writes to shared memory before, copy engine or wgmma reads after.
__device__ __forceinline__ void AsyncProxyFence() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- TMA: a box of a two-dimensional tensor map at (column, row) to shared memory, completing on `barrier`.
__device__ __forceinline__ void CopyBox(uint32_t shared, const CUtensorMap* map, uint32_t barrier,
                                        int column, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4}], [%2];" ::"r"(shared),
      "l"(map), "r"(barrier), "r"(column), "r"(row)
      : "memory");
}

// ---- wgmma

__device__ __forceinline__ void WgmmaFence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void WgmmaCommit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void WgmmaWait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving copies of accumulators across: before WgmmaFence and after WgmmaWait.
template <int kCount>
__device__ __forceinline__ void PinAccumulators(float (&c)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; i++) asm volatile("" : "+f"(c[i])::"memory");
}

// Matrix descriptors: start address, leading and stride byte offsets (all in 16 bytes), swizzle mode.
__device__ __forceinline__ uint64_t Descriptor(uint32_t address, int leading, int stride,
                                               int swizzle) {
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) |
         static_cast<uint64_t>(leading >> 4) << 16 | static_cast<uint64_t>(stride >> 4) << 32 |
         static_cast<uint64_t>(swizzle) << 62;
}
// Rows of 64 elements (128 bytes), swizzled by 128 bytes as TMA leaves them; the product runs along the row (keys of QK^T).
__device__ __forceinline__ uint64_t RowDescriptor(uint32_t address) {
  return Descriptor(address, 16, 1024, 1);
}
// The same of an address in units of 16 bytes: two such differ by the difference of their addresses alone.
__device__ __forceinline__ uint64_t RowDescriptorOf(uint32_t sixteenth) {
  const uint64_t fixed = Descriptor(0, 16, 1024, 1);
  return (fixed >> 32) << 32 | (static_cast<uint32_t>(fixed) + sixteenth);
}
// The same memory, the product running across rows (values of PV); `chunk` bytes from one 64 columns to the next.
__device__ __forceinline__ uint64_t ColumnDescriptor(uint32_t address, int chunk) {
  return Descriptor(address, chunk, 1024, 1);
}
// Unswizzled 8x8 matrices of 128 bytes: `leading` bytes between two along the product, `stride` across.
__device__ __forceinline__ uint64_t PlainDescriptor(uint32_t address, int leading, int stride) {
  return Descriptor(address, leading, stride, 0);
}

// Accumulators of 64 x N: warp w of the warpgroup holds rows 16w to 16w + 15; c[4j + 2h + e] of lane l is row
// l/4 + 8h, column 8j + 2(l%4) + e. An A operand in registers has the same shape: a[2i + h] packs two elements of row
// l/4 + 8h, columns 8i + 2(l%4) and the next. Products of both element types may add to the same accumulators.

// c (+)= A B^T, 64 x 128 x 16, A in registers, B = 128 rows along the product; kAcross: c (+)= A B, B = 16 rows across
// the product.
template <bool kAcross = false, typename Element = __nv_bfloat16>
__device__ __forceinline__ void WgmmaN128(float (&c)[64], const uint32_t (&a)[4], uint64_t b,
                                          int accumulate) {
#define TAUSERVE_WGMMA(TYPE)                                                                       \
  asm volatile(                                                                                    \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"                                                 \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE                                 \
      " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "    \
      "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "      \
      "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, "      \
      "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"                                      \
      "}, {%64, %65, %66, %67}, %68, p, 1, 1, %70;\n}\n"                                           \
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]),        \
        "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]),    \
        "+f"(c[14]), "+f"(c[15]), "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), \
        "+f"(c[21]), "+f"(c[22]), "+f"(c[23]), "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), \
        "+f"(c[28]), "+f"(c[29]), "+f"(c[30]), "+f"(c[31]), "+f"(c[32]), "+f"(c[33]), "+f"(c[34]), \
        "+f"(c[35]), "+f"(c[36]), "+f"(c[37]), "+f"(c[38]), "+f"(c[39]), "+f"(c[40]), "+f"(c[41]), \
        "+f"(c[42]), "+f"(c[43]), "+f"(c[44]), "+f"(c[45]), "+f"(c[46]), "+f"(c[47]), "+f"(c[48]), \
        "+f"(c[49]), "+f"(c[50]), "+f"(c[51]), "+f"(c[52]), "+f"(c[53]), "+f"(c[54]), "+f"(c[55]), \
        "+f"(c[56]), "+f"(c[57]), "+f"(c[58]), "+f"(c[59]), "+f"(c[60]), "+f"(c[61]), "+f"(c[62]), \
        "+f"(c[63])                                                                                \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(kAcross ? 1 : 0))
  if constexpr (kIsFloat16<Element>) {
    TAUSERVE_WGMMA("f16");
  } else {
    TAUSERVE_WGMMA("bf16");
  }
#undef TAUSERVE_WGMMA
}

// The same with 64 columns; kAcross: c (+)= A B, B = 16 rows across the product.
template <bool kAcross = false, typename Element = __nv_bfloat16>
__device__ __forceinline__ void WgmmaN64(float (&c)[32], const uint32_t (&a)[4], uint64_t b,
                                         int accumulate) {
#define TAUSERVE_WGMMA(TYPE)                                                                       \
  asm volatile(                                                                                    \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"                                                 \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE                                  \
      " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "    \
      "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"                            \
      "}, {%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}\n"                                           \
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]),        \
        "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]),    \
        "+f"(c[14]), "+f"(c[15]), "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), \
        "+f"(c[21]), "+f"(c[22]), "+f"(c[23]), "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), \
        "+f"(c[28]), "+f"(c[29]), "+f"(c[30]), "+f"(c[31])                                         \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(kAcross ? 1 : 0))
  if constexpr (kIsFloat16<Element>) {
    TAUSERVE_WGMMA("f16");
  } else {
    TAUSERVE_WGMMA("bf16");
  }
#undef TAUSERVE_WGMMA
}

// The same with A in shared memory.
template <typename Element = __nv_bfloat16>
__device__ __forceinline__ void WgmmaN128Shared(float (&c)[64], uint64_t a, uint64_t b,
                                                int accumulate) {
#define TAUSERVE_WGMMA(TYPE)                                                                       \
  asm volatile(                                                                                    \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"                                                 \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE                                 \
      " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "    \
      "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "      \
      "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, "      \
      "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"                                      \
      "}, %64, %65, p, 1, 1, 0, 0;\n}\n"                                                           \
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]),        \
        "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]),    \
        "+f"(c[14]), "+f"(c[15]), "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), \
        "+f"(c[21]), "+f"(c[22]), "+f"(c[23]), "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), \
        "+f"(c[28]), "+f"(c[29]), "+f"(c[30]), "+f"(c[31]), "+f"(c[32]), "+f"(c[33]), "+f"(c[34]), \
        "+f"(c[35]), "+f"(c[36]), "+f"(c[37]), "+f"(c[38]), "+f"(c[39]), "+f"(c[40]), "+f"(c[41]), \
        "+f"(c[42]), "+f"(c[43]), "+f"(c[44]), "+f"(c[45]), "+f"(c[46]), "+f"(c[47]), "+f"(c[48]), \
        "+f"(c[49]), "+f"(c[50]), "+f"(c[51]), "+f"(c[52]), "+f"(c[53]), "+f"(c[54]), "+f"(c[55]), \
        "+f"(c[56]), "+f"(c[57]), "+f"(c[58]), "+f"(c[59]), "+f"(c[60]), "+f"(c[61]), "+f"(c[62]), \
        "+f"(c[63])                                                                                \
      : "l"(a), "l"(b), "r"(accumulate))
  if constexpr (kIsFloat16<Element>) {
    TAUSERVE_WGMMA("f16");
  } else {
    TAUSERVE_WGMMA("bf16");
  }
#undef TAUSERVE_WGMMA
}

// 64 columns, A in shared memory.
template <typename Element = __nv_bfloat16>
__device__ __forceinline__ void WgmmaN64Shared(float (&c)[32], uint64_t a, uint64_t b,
                                               int accumulate) {
#define TAUSERVE_WGMMA(TYPE)                                                                       \
  asm volatile(                                                                                    \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"                                                 \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE                                  \
      " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "    \
      "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"                            \
      "}, %32, %33, p, 1, 1, 0, 0;\n}\n"                                                           \
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]),        \
        "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]),    \
        "+f"(c[14]), "+f"(c[15]), "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), \
        "+f"(c[21]), "+f"(c[22]), "+f"(c[23]), "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), \
        "+f"(c[28]), "+f"(c[29]), "+f"(c[30]), "+f"(c[31])                                         \
      : "l"(a), "l"(b), "r"(accumulate))
  if constexpr (kIsFloat16<Element>) {
    TAUSERVE_WGMMA("f16");
  } else {
    TAUSERVE_WGMMA("bf16");
  }
#undef TAUSERVE_WGMMA
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_HOPPER_H_
