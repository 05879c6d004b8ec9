// Which instance of a kernel's template a launch takes.
#ifndef TAUSERVE_KERNELS_CUDA_KERNEL_VARIANT_H_
#define TAUSERVE_KERNELS_CUDA_KERNEL_VARIANT_H_

#include "kernels/check.h"
#include "kernels/cuda/slice.h"
#include "kernels/entmax/weight.h"

namespace tauserve::cuda {

// Calls run.operator()<head_dim>() of the head dims that Hopper's entmax kernels are made for.
template <typename Run>
void WithHeadDim(int head_dim, const Run& run) {
  switch (head_dim) {
    case 64:
      return run.template operator()<64>();
    case 96:
      return run.template operator()<96>();
    case 128:
      return run.template operator()<128>();
    case 256:
      return run.template operator()<256>();
    default:
      TAUSERVE_CHECK(false, "head_dim");
  }
}

// Calls run.operator()<form>() of the form that all entmax heads' weights have; softmax heads count for nothing.
template <typename Run>
void WithForm(const Head* heads, int num_heads, const Run& run) {
  bool square = true, linear = true;
  for (int h = 0; h < num_heads; h++) {
    if (heads[h].alpha == 1) continue;
    square &= heads[h].alpha == 1.5f;
    linear &= heads[h].alpha == 2.0f;
  }
  if (square) return run.template operator()<entmax::Form::kSquare>();
  if (linear) return run.template operator()<entmax::Form::kLinear>();
  run.template operator()<entmax::Form::kGeneral>();
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_KERNEL_VARIANT_H_
