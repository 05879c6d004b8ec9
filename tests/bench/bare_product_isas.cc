#include "tests/bench/bare_product.h"

namespace tauserve::cpu {

namespace portable {
extern const BareProduct kBareProduct;
}
namespace avx2 {
extern const BareProduct kBareProduct;
}
namespace avx512 {
extern const BareProduct kBareProduct;
}
namespace avx512_vnni {
extern const BareProduct kBareProduct;
}
namespace avx512_bf16 {
extern const BareProduct kBareProduct;
}

BareProduct BareProductFor(Isa isa) {
  switch (isa) {
#ifdef TAUSERVE_X86_KERNELS
    case Isa::kAvx512Bf16:
      return avx512_bf16::kBareProduct;
    case Isa::kAvx512Vnni:
      return avx512_vnni::kBareProduct;
    case Isa::kAvx512:
      return avx512::kBareProduct;
    case Isa::kAvx2:
      return avx2::kBareProduct;
#endif
    default:
      return portable::kBareProduct;
  }
}

}  // namespace tauserve::cpu
