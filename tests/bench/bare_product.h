// The product of queries and keys alone, with the microkernel that attention uses: what bounds a flash kernel.
#ifndef TAUSERVE_TESTS_BENCH_BARE_PRODUCT_H_
#define TAUSERVE_TESTS_BENCH_BARE_PRODUCT_H_

#include "kernels/cpu/isa.h"

namespace tauserve::cpu {

// Multiplies `rows` queries with `pages` pages of packed bfloat16 keys and forgets the scores. Packing is not part of it.
using BareProduct = void (*)(int rows, int pages, int head_dim);

BareProduct BareProductFor(Isa isa);

}  // namespace tauserve::cpu

#endif  // TAUSERVE_TESTS_BENCH_BARE_PRODUCT_H_
