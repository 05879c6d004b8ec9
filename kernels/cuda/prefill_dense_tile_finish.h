// What ends a pass of a dense row tile, and the row tile: steps of the floors, output and statistics.
#ifndef TAUSERVE_KERNELS_CUDA_PREFILL_DENSE_TILE_FINISH_H_
#define TAUSERVE_KERNELS_CUDA_PREFILL_DENSE_TILE_FINISH_H_

#include "kernels/cuda/prefill_dense_tile_output.h"

namespace tauserve::cuda {

// Rows with weight on fewer keys multiply their weights in two parts: rounded to bfloat16 as one, they err by as much as
// the output's own rounding; over more keys the errors cancel.
inline constexpr float kFewKeys = 16;
inline constexpr float kSteepExponent =
    4.5f;  // few keys have nearly all weight, whatever lies above the threshold
inline constexpr float kStepBack = 0.25f;  // widths
inline constexpr int kMostStepsBack = 6;

// How far the floor of a row is from its threshold, in widths, by a pass's sums: of weights (`s`), of weights'
// derivatives over the exponent (`s1`) and of keys. Far below, a Newton step on the norm, which stays below. Near, a
// step to where the logarithm of the sum, nearly straight over the scores' tail, is zero; its curvature is known for
// squares, for other exponents taken from the pass before. `close`: the rest is small, after a pass over all keys.
template <typename Element, int kDim, int kWarpgroups, entmax::Form kForm>
__device__ __forceinline__ float DenseRowTile<Element, kDim, kWarpgroups, kForm>::StepOf(
    int h, float s, float s1, float count, bool& close) {
  const float excess = s - 1;
  const float slope = -exponent[h] * s1 / s;
  const float moved = (floor[h] - last_floor[h]) * inverse_width[h];
  const float turned = slope - last_slope[h];
  last_slope[h] = slope;
  last_floor[h] = floor[h];
  if (!(excess > -0.6f && excess < 2)) {
    close = false;
    return -entmax::NormNewton(WeightOf(h), {s, s1, 0}, 0.0f);
  }
  const float log = __logf(s);
  if constexpr (kForm == entmax::Form::kLinear) {  // no tail to follow, and Newton's steps end
    close = fabsf(log) <= 0.005f;
    return excess / s1;
  }
  float curvature = 0;
  float most_left = 0.005f;  // of the logarithm
  if constexpr (kForm == entmax::Form::kSquare) {
    curvature = (2 * count - slope * slope * s) / s;
    most_left = 0.1f;
  } else if (summed && moved != 0) {
    curvature = turned / moved;
    most_left = 0.02f;
  }
  const float discriminant = slope * slope - 2 * curvature * log;
  const float step =
      discriminant > 0.25f * slope * slope ? 2 * log / (sqrtf(discriminant) - slope) : -log / slope;
  // Keys between the floor and the threshold are no smooth change: one more or less of them counts for up to `single`, and
  // their number deviates by its root.
  const float single =
      kForm == entmax::Form::kSquare ? step * step : FastPower(fabsf(step), exponent[h]);
  const float between = 4 * count * fabsf(step);
  close = fabsf(log) <= most_left && single * sqrtf(1 + between) <= 5e-5f;
  return step;
}

// Moves the floors by a pass's sums, nearer to the thresholds. Another pass if some row wasn't near.
template <typename Element, int kDim, int kWarpgroups, entmax::Form kForm>
__device__ __forceinline__ void DenseRowTile<Element, kDim, kWarpgroups, kForm>::EndPass() {
  const float share = static_cast<float>(StrideOf(need));
  bool again = need == Pass::kMaximum;
  bool down = false;
  bool few = false;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    if (need == Pass::kMaximum) {
      const float maximum = QuadMax(most[h]);
      if (floor[h] == kNoFloor) floor[h] = maximum - width[h];
      continue;
    }
    if (need == Pass::kSum) dead_top[h] = fmaxf(dead_top[h], floor[h] + QuadMax(most[h]));
    float s = QuadSum(sum[h]) * share;
    float s1 = QuadSum(first_power[h]) * share;
    const float count =
        QuadSum(static_cast<float>(16 * pages - static_cast<int>(below[h]))) * share;
    if constexpr (kForm == entmax::Form::kSquare) {
      s *= inverse_width[h] * inverse_width[h];
      s1 *= inverse_width[h];
    } else if constexpr (kForm == entmax::Form::kLinear) {
      s *= inverse_width[h];
      s1 = count;
    }
    few |= (count < kFewKeys || exponent[h] > kSteepExponent) && floor[h] < kDeadFloor;
    if (!(s1 > 0) || !(s > 0)) {
      // A step too far, over all scores: back, a little at a time. Rows that have none (NaN) stay without.
      if (need != Pass::kSum || !(floor[h] < kDeadFloor) || passes >= kMostStepsBack) continue;
      floor[h] -= kStepBack * width[h];
      again = down = true;
      continue;
    }
    bool close;
    const float step = StepOf(h, s, s1, count, close);
    again |= need == Pass::kSum ? !close : fabsf(s - 1) > exponent[h] * kSampleTolerance;
    if (floor[h] < kDeadFloor) floor[h] += step * width[h];
    down |= step < 0 && floor[h] < dead_top[h];
  }
  if (__any_sync(~0u, down) && need == Pass::kSum && lane == 0) {
    *const_cast<volatile int32_t*>(&control.lowered) = 1;
  }
  passes += need == Pass::kSum;
  samples += need == Pass::kSample;
  summed = need == Pass::kSum;
  const bool more = WarpgroupCount(BarrierId(), again) > 0;
  if (need == Pass::kSum) {
    few_keys = WarpgroupCount(BarrierId(), few) > 0;
    need = more && passes < kMaxDensePasses ? Pass::kSum : Pass::kOutput;
  } else if (need == Pass::kHalf || !sampled) {
    need = Pass::kSum;
  } else {
    need = samples < kMaxSamplePasses && more ? Pass::kSample : Pass::kHalf;
  }
  ClearSums();
  if (!biased) SetBias(0);
}

template <typename Element, int kDim, int kWarpgroups, entmax::Form kForm>
__device__ __forceinline__ void DenseRowTile<Element, kDim, kWarpgroups, kForm>::Finish(
    const float (&out)[kChunks][32]) {
  const Slice slice = p.args.slices[slice_index];
  RowCounts counts[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const float weights = QuadSum(first_power[h]);
    const float scale = 1 / (kTwoParts && few_keys ? weights : QuadSum(sum[h]));
    counts[h].live = floor[h] < kDeadFloor;
    counts[h].support =
        static_cast<int>(QuadSum(static_cast<float>(16 * pages - static_cast<int>(below[h]))));
    counts[h].iterations = passes;
    counts[h].residual = fabsf(weights - 1);
    if (!counts[h].live) continue;
    const int r = first_row + warp * 16 + lane / 4 + 8 * h, token = r / p.group;
    if (p.args.kept.threshold && (lane & 3) == 0) {
      const int64_t row = static_cast<int64_t>(slice.first_row + token) * p.args.num_heads +
                          kv_head * p.group + r - token * p.group;
      p.args.kept.threshold[row] = floor[h];
      p.args.kept.count[row] = counts[h].support;
      p.args.kept.first[row] = -1;
    }
    Element* to = p.args.out + (slice.first_row + token) * p.args.out_stride +
                  (kv_head * p.group + r - token * p.group) * kDim + (lane & 3) * 2;
#pragma unroll
    for (int i = 0; i < kDim / 8; i++) {
      const float* pair = &out[i / 8][i % 8 * 4 + 2 * h];
      *reinterpret_cast<uint32_t*>(to + i * 8) =
          PackPair<Element>(pair[0] * scale, pair[1] * scale);
    }
  }
  active = false;
  if (!p.Stats()) return;
  AttentionStats* stats = p.Stats() + slice_index;
  AddRowStats(stats, counts, lane);
  int64_t considered = 0;
  int rows = 0;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    if ((lane & 3) != 0 || !counts[h].live) continue;
    const KeyRange range = Visible(position[h]);
    considered += range.end - range.begin;
    rows++;
  }
  considered = WarpSum(considered);
  rows = WarpSum(rows);
  if (lane != 0) return;
  AddTo(&stats->keys_considered, considered);
  AddTo(&stats->keys_scored, considered);
  AddTo(&stats->wide_rows, rows);
  AddTo(&stats->blocks_attended, attended_pages);
  if (warp != 0) return;
  const int visible_pages = CeilDiv(visible.end, kPageTokens) - visible.begin / kPageTokens;
  AddTo(&stats->blocks_considered, visible_pages);
  AddTo(&stats->blocks_scored, visible_pages);
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_PREFILL_DENSE_TILE_FINISH_H_
