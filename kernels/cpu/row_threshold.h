// Threshold: from a row's candidates to its gap u = max - tau (see entmax/weight.h), vectorised.
// Compiled once for each instruction set; see simd.h.
#ifndef TAUSERVE_KERNELS_CPU_ROW_THRESHOLD_H_
#define TAUSERVE_KERNELS_CPU_ROW_THRESHOLD_H_

#include "kernels/cpu/simd.h"
#include "kernels/entmax/threshold.h"

namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE {

using entmax::Form;
using entmax::PowerSums;
using entmax::WeightFunction;

// z^exponent for z > 0; 0 elsewhere.
TAUSERVE_INLINE F PowerOf(F z, float exponent) {
  const Mask positive = Greater(z, Set1(1e-37f));
  const F p = Exp2(Log2(Select(positive, z, Set1(1.0f))) * exponent);
  return Select(positive, p, F{});
}

// The weights of a vector of gaps z, which may be negative.
TAUSERVE_INLINE F WeightOf(const WeightFunction& f, F z) {
  const F positive = Max(z, F{});
  if (f.form == Form::kSquare) return positive * positive;
  if (f.form == Form::kLinear) return positive;
  return PowerOf(positive, f.exponent);
}

template <Form kForm>
TAUSERVE_INLINE void AddPowers(const WeightFunction& f, F z, F& s0, F& s1, F& s2) {
  const F positive = Max(z, F{});
  if constexpr (kForm == Form::kSquare) {
    s0 = Fma(positive, positive, s0);
    s1 += positive;
    s2 += Select(Greater(z, F{}), Set1(1.0f), F{});
  } else if constexpr (kForm == Form::kLinear) {
    s0 += positive;
    s1 += Select(Greater(z, F{}), Set1(1.0f), F{});
  } else {
    const Mask m = Greater(z, Set1(1e-37f));
    const F safe = Select(m, z, Set1(1.0f));
    const F p1 = Select(m, Exp2(Log2(safe) * (f.exponent - 1)), F{});
    s0 = Fma(p1, positive, s0);
    s1 += p1;
    s2 += p1 / safe;
  }
}

template <Form kForm>
inline PowerSums SumsOfForm(const WeightFunction& f, const float* y, int64_t n, float u) {
  F a0{}, a1{}, a2{}, b0{}, b1{}, b2{};
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    AddPowers<kForm>(f, Load(y + i) + u, a0, a1, a2);
    AddPowers<kForm>(f, Load(y + i + kLanes) + u, b0, b1, b2);
  }
  for (; i < n; i += kLanes) {
    const F z = Select(FirstLanes(n - i), Load(y + i) + u, F{});
    AddPowers<kForm>(f, z, a0, a1, a2);
  }
  return {ReduceAdd(a0 + b0), ReduceAdd(a1 + b1), ReduceAdd(a2 + b2)};
}

// Power sums over y[0, n); up to kLanes - 1 elements beyond are read and ignored.
inline PowerSums SumsAt(const WeightFunction& f, const float* y, int64_t n, float u) {
  if (f.form == Form::kSquare) return SumsOfForm<Form::kSquare>(f, y, n, u);
  if (f.form == Form::kLinear) return SumsOfForm<Form::kLinear>(f, y, n, u);
  return SumsOfForm<Form::kGeneral>(f, y, n, u);
}

struct Gap {
  float u = 0;
  float sum = 0;  // of weights at u; they are divided by it
  int steps = 0;
};

// The gap of a row whose keys with weight are all among y[0, n), y <= 0 scaled and measured from the maximum. The root
// is at most `hi`; where that says something, it is a floor's, which two steps on the norm have brought near the root.
// Otherwise such steps give the start, or the histogram.
inline Gap SolveGap(const WeightFunction& f, const float* y, int64_t n, float hi) {
  entmax::Bracket bracket = entmax::WidestBracket(f, n);
  constexpr int64_t kLongRow = 256;
  if (hi < 0.999f && hi > bracket.lo) {
    bracket.hi = hi;
  } else if (n > kLongRow) {
    // Counting so many keys takes longer than the steps on the norm that it saves.
    float u = 1;
    for (int step = 0; step < 2; step++) {
      u = entmax::NormNewton(f, SumsAt(f, y, n, u), u);
    }
    u *= 1 + 1e-5f;
    if (u < 1 && u > bracket.lo) bracket.hi = u;
  } else {
    entmax::Histogram histogram;
    entmax::Clear(histogram);
    for (int64_t i = 0; i < n; i++) {
      if (y[i] > -1) histogram.count[entmax::BinOf(y[i])]++;
    }
    bracket = entmax::BracketFromHistogram(f, histogram, bracket);
  }
  Gap gap;
  gap.u = bracket.hi;
  while (true) {
    const PowerSums sums = SumsAt(f, y, n, gap.u);
    gap.sum = sums.s0;
    if (!(__builtin_fabsf(sums.s0 - 1) > entmax::kResidualTolerance) ||
        gap.steps == entmax::kMaxSteps) {
      return gap;
    }
    const float next = entmax::NextGap(f, sums, gap.u, bracket);
    if (next == gap.u) return gap;
    gap.u = next;
    gap.steps++;
  }
}

}  // namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE

#endif  // TAUSERVE_KERNELS_CPU_ROW_THRESHOLD_H_
