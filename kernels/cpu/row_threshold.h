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

// A row's raw scores, in up to two pieces, and what makes them y = (score - max) * factor. A piece's length is a multiple
// of 2 * kLanes; it is filled up with -infinity.
struct RowScores {
  struct Piece {
    const float* score = nullptr;
    int64_t n = 0;
  };
  Piece piece[2];
  int64_t keys = 0;  // at most so many of them are scores
  float max = 0;
  float factor = 0;
};

// The weights' bases z = y + u, negative where there is no weight.
TAUSERVE_INLINE F GapAbove(const RowScores& row, F score, float u) {
  return Fma(score - row.max, Set1(row.factor), Set1(u));
}

template <Form kForm>
inline PowerSums SumsOfForm(const WeightFunction& f, const RowScores& row, float u) {
  F a0{}, a1{}, a2{}, b0{}, b1{}, b2{};
  for (const RowScores::Piece& piece : row.piece) {
    for (int64_t i = 0; i < piece.n; i += 2 * kLanes) {
      AddPowers<kForm>(f, GapAbove(row, Load(piece.score + i), u), a0, a1, a2);
      AddPowers<kForm>(f, GapAbove(row, Load(piece.score + i + kLanes), u), b0, b1, b2);
    }
  }
  return {ReduceAdd(a0 + b0), ReduceAdd(a1 + b1), ReduceAdd(a2 + b2)};
}

inline PowerSums SumsAt(const WeightFunction& f, const RowScores& row, float u) {
  if (f.form == Form::kSquare) return SumsOfForm<Form::kSquare>(f, row, u);
  if (f.form == Form::kLinear) return SumsOfForm<Form::kLinear>(f, row, u);
  return SumsOfForm<Form::kGeneral>(f, row, u);
}

struct Gap {
  float u = 0;
  float sum = 0;  // of weights at u; they are divided by it
  int steps = 0;
};

// The gap of a row whose keys with weight are all among its scores. The root is at most `hi`: a floor's, which is near,
// or 1. From far, Newton's step on the norm gets nearer than Halley's.
inline Gap SolveGap(const WeightFunction& f, const RowScores& row, float hi) {
  entmax::Bracket bracket = entmax::WidestBracket(f, row.keys);
  if (hi < bracket.hi && hi > bracket.lo) bracket.hi = hi;
  Gap gap;
  gap.u = bracket.hi;
  while (true) {
    const PowerSums sums = SumsAt(f, row, gap.u);
    gap.sum = sums.s0;
    if (!(__builtin_fabsf(sums.s0 - 1) > entmax::kResidualTolerance) ||
        gap.steps == entmax::kMaxSteps) {
      return gap;
    }
    const float next =
        sums.s0 > 2 ? entmax::NormNewton(f, sums, gap.u) : entmax::NextGap(f, sums, gap.u, bracket);
    if (next == gap.u) return gap;
    gap.u = next;
    gap.steps++;
  }
}

}  // namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE

#endif  // TAUSERVE_KERNELS_CPU_ROW_THRESHOLD_H_
