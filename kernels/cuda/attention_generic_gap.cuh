// The generic kernel's threshold: passes over the keys that find each row's maximum, bracket and gap.
#ifndef TAUSERVE_KERNELS_CUDA_ATTENTION_GENERIC_GAP_CUH_
#define TAUSERVE_KERNELS_CUDA_ATTENTION_GENERIC_GAP_CUH_

#include "kernels/cuda/attention_generic_tile.cuh"

namespace tauserve::cuda::generic {

// Sums over the four lanes that share a row go to the warp's place.
__device__ inline void KeepSums(Shared& shared, PowerSums (&sums)[2]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    PowerSums s = sums[half];
    for (int offset = 1; offset < 4; offset *= 2) {
      s.s0 += __shfl_xor_sync(~0u, s.s0, offset);
      s.s1 += __shfl_xor_sync(~0u, s.s1, offset);
      s.s2 += __shfl_xor_sync(~0u, s.s2, offset);
    }
    if (lane % 4 == 0) shared.sums[threadIdx.x / 32][lane / 4 + 8 * half] = s;
  }
}

// A row's sum over the warps, always in the same order.
__device__ inline PowerSums SumOfWarps(const Shared& shared, int row) {
  PowerSums sums;
  for (int w = 0; w < kWarps; w++) {
    sums.s0 += shared.sums[w][row].s0;
    sums.s1 += shared.sums[w][row].s1;
    sums.s2 += shared.sums[w][row].s2;
  }
  return sums;
}

// First pass: each row's maximum. Its own keys' tell a warp which pages are too far.
template <int kDimSteps>
__device__ void FindMaxima(const Block& b, Shared& shared, ThreadRows<kDimSteps>& rows,
                           uint32_t* read) {
  float(&max)[2] = rows.max;
  max[0] = max[1] = -kInfinity;
  int scored = 0;
  constexpr int kPages = kPagesAtOnce<kDimSteps>;
  for (int page = b.last_page; page >= b.first_page; page -= kPages) {
    PageScores<kDimSteps> scores;
    if (!ScorePages(b, rows, page, max, scores)) continue;
#pragma unroll
    for (int p = 0; p < kPages; p++) {
      if (b.bounded && scores.live[p] && threadIdx.x % 32 == 0) {
        atomicOr(read + (page - p) / 32, 1u << (page - p) % 32);
      }
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float score = scores.score[p][i / 2][i % 2];
        max[i / 2] = fmaxf(max[i / 2], score);
        scored += score > -kInfinity;
      }
    }
  }
  scored = __reduce_add_sync(~0u, scored);
  if (threadIdx.x % 32 == 0) atomicAdd(&shared.keys_scored, scored);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    for (int offset = 1; offset < 4; offset *= 2) {
      max[half] = fmaxf(max[half], __shfl_xor_sync(~0u, max[half], offset));
    }
    const int lane = threadIdx.x % 32;
    if (lane % 4 == 0) shared.sums[threadIdx.x / 32][lane / 4 + 8 * half].s0 = max[half];
  }
  __syncthreads();
  if (threadIdx.x < kTileRows) {
    float all = -kInfinity;
    for (int w = 0; w < kWarps; w++) all = fmaxf(all, shared.sums[w][threadIdx.x].s0);
    shared.row[threadIdx.x].max = all;
  }
  __syncthreads();
#pragma unroll
  for (int half = 0; half < 2; half++) {
    rows.max[half] = shared.row[threadIdx.x % 32 / 4 + 8 * half].max;
  }
}

// A histogram of fewer keys costs more than the steps that it saves.
constexpr int kHistogramKeys = 1024;

// The bracket that the search for the gap begins with; for rows of many keys from a second pass, which makes a
// histogram.
template <int kDimSteps>
__device__ void FindBrackets(const Block& b, Shared& shared, const ThreadRows<kDimSteps>& rows) {
  bool many = false;
  if (threadIdx.x < kTileRows) {
    const RowState& row = shared.row[threadIdx.x];
    many = row.last_key - row.first_key >= kHistogramKeys;
  }
  if (__syncthreads_or(many)) {
    ForScores(b, rows, [&](int half, float score) {
      const float y = score - rows.max[half];
      if (!(y > -1)) return;
      const int row = threadIdx.x % 32 / 4 + 8 * half;
      atomicAdd(&shared.histogram[row].count[entmax::BinOf(y)], 1);
    });
  }
  __syncthreads();
  if (threadIdx.x < kTileRows) {
    RowState& row = shared.row[threadIdx.x];
    row.done |= row.max == -kInfinity;
    if (!row.done) {
      row.bracket = entmax::WidestBracket(b.weight, row.last_key - row.first_key + 1);
      if (many) {
        row.bracket =
            entmax::BracketFromHistogram(b.weight, shared.histogram[threadIdx.x], row.bracket);
      }
      row.gap = row.bracket.hi;
    }
  }
  __syncthreads();
}

// One pass for each step, until all rows of the tile have their gap.
template <int kDimSteps>
__device__ void FindGaps(const Block& b, Shared& shared, ThreadRows<kDimSteps>& rows) {
  while (true) {
    bool done = true;
    if (threadIdx.x < kTileRows) done = shared.row[threadIdx.x].done;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      rows.gap[half] = shared.row[threadIdx.x % 32 / 4 + 8 * half].gap;
    }
    if (__syncthreads_and(done)) return;
    PowerSums sums[2];
    ForScores(b, rows, [&](int half, float score) {
      entmax::Accumulate(b.weight, score - rows.max[half] + rows.gap[half], sums[half]);
    });
    KeepSums(shared, sums);
    __syncthreads();
    if (threadIdx.x < kTileRows && !shared.row[threadIdx.x].done) {
      RowState& row = shared.row[threadIdx.x];
      const PowerSums all = SumOfWarps(shared, threadIdx.x);
      row.sum = all.s0;
      row.done =
          !(fabsf(all.s0 - 1) > entmax::kResidualTolerance) || row.steps == entmax::kMaxSteps;
      if (!row.done) {
        const float next = all.s0 > 2 ? entmax::NormNewton(b.weight, all, row.gap)
                                      : entmax::NextGap(b.weight, all, row.gap, row.bracket);
        row.done = next == row.gap;
        row.steps += !row.done;
        row.gap = next;
      }
    }
    __syncthreads();
  }
}

}  // namespace tauserve::cuda::generic

#endif  // TAUSERVE_KERNELS_CUDA_ATTENTION_GENERIC_GAP_CUH_
