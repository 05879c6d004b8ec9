// The entmax weight function. With y_j = (alpha - 1)(a_j - max_k a_k) <= 0, a row's weights are
//     p_j = max(u + y_j, 0)^e,  e = 1 / (alpha - 1),
// where the gap u = max - tau in scaled scores is the root of f(u) = sum_j max(u + y_j, 0)^e - 1 in
// [n^(1 - alpha), 1]. f increases and is convex for 1 < alpha <= 2. Measuring from the maximum keeps full float
// precision when all weights are small (equal scores: u = n^(1 - alpha) and y = 0) and when scores are huge.
// Source: Peters, Niculae, Martins 2019 (arXiv 1905.05702), eq. 10; bracket: Blondel et al. 2019, proposition 4.
#ifndef TAUSERVE_KERNELS_ENTMAX_WEIGHT_H_
#define TAUSERVE_KERNELS_ENTMAX_WEIGHT_H_

#include <cmath>

#include "kernels/entmax/host_device.h"

namespace tauserve::entmax {

// Which closed form the power takes.
enum class Form { kSquare, kLinear, kGeneral };  // alpha 1.5, 2, any

struct WeightFunction {
  float alpha = 1.5f;
  float exponent = 2;  // e
  Form form = Form::kSquare;
};

TAUSERVE_HOST_DEVICE inline WeightFunction MakeWeightFunction(float alpha) {
  WeightFunction w;
  w.alpha = alpha;
  w.exponent = 1 / (alpha - 1);
  w.form = alpha == 1.5f ? Form::kSquare : alpha == 2.0f ? Form::kLinear : Form::kGeneral;
  return w;
}

// z^e for z > 0. On a GPU by its fast base-2 logarithm and exponential, to about e * 2e-7.
TAUSERVE_HOST_DEVICE inline float Power(float z, float e) {
#ifdef __CUDA_ARCH__
  return exp2f(e * __log2f(z));
#else
  return powf(z, e);
#endif
}

// z^e for z >= 0.
TAUSERVE_HOST_DEVICE inline float Weight(const WeightFunction& w, float z) {
  if (w.form == Form::kSquare) return z * z;
  if (w.form == Form::kLinear) return z;
  return z > 0 ? Power(z, w.exponent) : 0.0f;
}

// Power sums of z = max(u + y, 0): sum z^e, sum z^(e-1), sum z^(e-2), over z > 0. f = s0 - 1, f' = e s1,
// f'' = e (e - 1) s2.
struct PowerSums {
  float s0 = 0;
  float s1 = 0;
  float s2 = 0;
};

TAUSERVE_HOST_DEVICE inline void Accumulate(const WeightFunction& w, float z, PowerSums& sums) {
  if (!(z > 0)) return;
  if (w.form == Form::kSquare) {
    sums.s0 += z * z;
    sums.s1 += z;
    sums.s2 += 1;
  } else if (w.form == Form::kLinear) {
    sums.s0 += z;
    sums.s1 += 1;
  } else {
    const float p1 = Power(z, w.exponent - 1);
    sums.s0 += p1 * z;
    sums.s1 += p1;
    sums.s2 += p1 / z;
  }
}

}  // namespace tauserve::entmax

#endif  // TAUSERVE_KERNELS_ENTMAX_WEIGHT_H_
