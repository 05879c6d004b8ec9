#include "kernels/cpu/kernels.h"

namespace tauserve::cpu {

const Kernels& KernelsFor(Isa isa) {
#ifdef TAUSERVE_X86_KERNELS
  switch (isa) {
    case Isa::kAvx512Bf16:
      return avx512_bf16::kKernels;
    case Isa::kAvx512Vnni:
      return avx512_vnni::kKernels;
    case Isa::kAvx512:
      return avx512::kKernels;
    case Isa::kAvx2:
      return avx2::kKernels;
    case Isa::kPortable:
      break;
  }
#else
  (void)isa;
#endif
  return portable::kKernels;
}

}  // namespace tauserve::cpu
