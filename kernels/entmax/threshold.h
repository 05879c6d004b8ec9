// Root finding for the gap u of entmax/weight.h: a histogram gives a bracket, guarded Halley or Newton steps the root.
#ifndef TAUSERVE_KERNELS_ENTMAX_THRESHOLD_H_
#define TAUSERVE_KERNELS_ENTMAX_THRESHOLD_H_

#include <cmath>
#include <cstdint>

#include "kernels/entmax/host_device.h"
#include "kernels/entmax/weight.h"

namespace tauserve::entmax {

// The root lies in [lo, hi].
struct Bracket {
  float lo;
  float hi;
};

// Before anything is known of a row of n keys.
TAUSERVE_HOST_DEVICE inline Bracket WidestBracket(const WeightFunction& w, int64_t n) {
  const float keys = static_cast<float>(n);
  const float least = w.form == Form::kSquare   ? 1 / sqrtf(keys)
                      : w.form == Form::kLinear ? 1 / keys
                                                : Power(keys, 1 - w.alpha);
  return {least * (1 - 1e-6f), 1.0f};
}

// Counts keys by y: bin b holds y in (-(b + 1)/16, -b/16]; keys with y <= -1 have weight zero and are not counted.
// (AdaSplash-2's histogram, arXiv 2604.15180, on an absolute grid.)
struct Histogram {
  static constexpr int kBins = 16;
  uint32_t count[kBins];
};

TAUSERVE_HOST_DEVICE inline void Clear(Histogram& h) {
  for (int b = 0; b < Histogram::kBins; b++) h.count[b] = 0;
}

TAUSERVE_HOST_DEVICE inline int BinOf(float y) { return static_cast<int>(-Histogram::kBins * y); }

// f at u with every counted key of bins [0, bins) at its bin's upper edge (side 0: overcounts) or lower edge (side 1).
TAUSERVE_HOST_DEVICE inline PowerSums SumsOfHistogram(const WeightFunction& w, const Histogram& h,
                                                      int bins, int side, float u) {
  PowerSums sums;
  for (int b = 0; b < bins; b++) {
    if (!h.count[b]) continue;
    PowerSums one;
    Accumulate(w, u - (b + side) * (1.0f / Histogram::kBins), one);
    sums.s0 += h.count[b] * one.s0;
    sums.s1 += h.count[b] * one.s1;
  }
  return sums;
}

// Keys at their bins' lower edges undercount f and so bound u from above; at the upper edges, from below. Each bound is
// found by walking the bins and then Newton steps, which descend onto the root from the right and never pass it.
TAUSERVE_HOST_DEVICE inline Bracket BracketFromHistogram(const WeightFunction& w,
                                                         const Histogram& h, Bracket widest) {
  constexpr float kWidth = 1.0f / Histogram::kBins;
  float bound[2];
  for (int side = 0; side < 2; side++) {
    int bins = 1;  // bins [0, bins) may have weight at the root
    for (; bins < Histogram::kBins; bins++) {
      if (SumsOfHistogram(w, h, bins, side, (bins + side) * kWidth).s0 >= 1) break;
    }
    float u = (bins + side) * kWidth;
    for (int step = 0; step < 4; step++) {
      const PowerSums sums = SumsOfHistogram(w, h, bins, side, u);
      if (!(sums.s1 > 0)) break;
      u -= (sums.s0 - 1) / (w.exponent * sums.s1);
    }
    bound[side] = u;
  }
  Bracket bracket = widest;
  const float hi = bound[1] * (1 + 1e-5f) + 1e-7f;
  if (hi < widest.hi && hi > widest.lo) bracket.hi = hi;
  // The lower bound must lie left of the overcounting sum's root, which Newton approached from the right: check it.
  const float lo = bound[0] * (1 - 1e-3f);
  if (lo > widest.lo && lo < bracket.hi && SumsOfHistogram(w, h, Histogram::kBins, 0, lo).s0 <= 1) {
    bracket.lo = lo;
  }
  return bracket;
}

inline constexpr int kMaxSteps = 24;
inline constexpr float kResidualTolerance = 2e-6f;  // of |sum p - 1|; what is left is divided out

// One step of the search. `sums` were taken at u; narrows the bracket and returns the next u. Halley's step for e >= 2,
// Newton's below (there f'' is unbounded near zero weights); bisection where a step leaves the bracket.
TAUSERVE_HOST_DEVICE inline float NextGap(const WeightFunction& w, const PowerSums& sums, float u,
                                          Bracket& bracket) {
  const float f = sums.s0 - 1;
  if (f > 0) {
    bracket.hi = u;
  } else {
    bracket.lo = u;
  }
  const float d1 = w.exponent * sums.s1;
  const float d2 = w.exponent >= 2 ? w.exponent * (w.exponent - 1) * sums.s2 : 0.0f;
  float next = u - 2 * f * d1 / (2 * d1 * d1 - f * d2);
  if (!(next >= bracket.lo && next <= bracket.hi)) next = 0.5f * (bracket.lo + bracket.hi);
  return next;
}

// A Newton step on the norm (sum z^e)^(1/e) - 1, which is convex in u as well and exact for one key. From any u right
// of the root it stays right of it, so the result bounds u from above: a floor for the keys' scores.
TAUSERVE_HOST_DEVICE inline float NormNewton(const WeightFunction& w, const PowerSums& sums,
                                             float u) {
  if (!(sums.s1 > 0)) return u;
  if (w.form == Form::kSquare) {
    const float norm = sqrtf(sums.s0);
    return u - (norm - 1) * norm / sums.s1;
  }
  if (w.form == Form::kLinear) return u - (sums.s0 - 1) / sums.s1;
  const float norm = Power(sums.s0, 1 / w.exponent);
  return u - (norm - 1) * sums.s0 / (norm * sums.s1);
}

}  // namespace tauserve::entmax

#endif  // TAUSERVE_KERNELS_ENTMAX_THRESHOLD_H_
