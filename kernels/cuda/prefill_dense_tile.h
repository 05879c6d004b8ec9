// A consumer warpgroup of the dense kernel: one row tile.
#ifndef TAUSERVE_KERNELS_CUDA_PREFILL_DENSE_TILE_H_
#define TAUSERVE_KERNELS_CUDA_PREFILL_DENSE_TILE_H_

#include "kernels/cuda/prefill_dense.h"

namespace tauserve::cuda {

template <int kDim, int kWarpgroups, entmax::Form kForm>
struct DenseRowTile {
  using Shape = DenseShape<kDim, kWarpgroups>;
  using Control = DenseControl<Shape::kStages, kWarpgroups>;
  static constexpr int kChunks = Shape::kChunks;

  const PrefillParams& p;
  Control& control;
  uint32_t* attended;     // bitmap of pages from the block's first
  uint32_t stages;        // shared address of the ring
  char* query;            // of the warpgroup, unswizzled
  uint64_t bias_columns;  // descriptor
  int warpgroup, warp, lane;
  int stage = 0;
  uint32_t parity = 0;

  int index, slice_index, kv_head, first_row, total, first_page;
  bool active = false;  // the block's mask names this row tile
  Pass need;
  int passes;
  float floor[2], width[2], inverse_width[2], slope[2], alpha[2];
  int position[2];
  KeyRange visible, whole;
  bool biased, sampled;
  int samples;
  uint32_t bias[4];
  float sum[2], first_power[2], keys[2], most[2];  // of the running pass
  int support[2], attended_pages;

  __device__ __forceinline__ int BarrierId() const { return 1 + warpgroup; }
  __device__ __forceinline__ void Release() {
    __syncwarp();
    if (lane == 0) BarrierArrive(SharedAddress(&control.empty[stage]));
    if (++stage == Shape::kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
  __device__ __forceinline__ KeyRange Visible(int at) const {
    return VisibleKeys(at, total, p.args.causal, p.args.sliding_window);
  }
  __device__ __forceinline__ entmax::WeightFunction WeightOf(int h) const {
    entmax::WeightFunction w = entmax::MakeWeightFunction(alpha[h]);
    if constexpr (kForm == entmax::Form::kSquare) w = {1.5f, 2.0f, kForm};
    if constexpr (kForm == entmax::Form::kLinear) w = {2.0f, 1.0f, kForm};
    return w;
  }

  __device__ void Run() {
    for (;;) {
      BarrierWait(SharedAddress(&control.full[stage]), parity);
      const int page = Uniform(control.message[stage].page);
      const Pass pass = static_cast<Pass>(Uniform(static_cast<int>(control.message[stage].pass)));
      if (page == DenseMessage::kEnd) return;
      if (page == DenseMessage::kNewBlock) {
        const int block = control.message[stage].index;
        Release();
        Start(block);
        Vote();
      } else if (pass == Pass::kOutput) {
        WriteOutput();
      } else {
        ReadPass(pass);
        Vote();
      }
    }
  }

  __device__ __forceinline__ bool Skips(int page) const {
    return !active || page * kPageTokens >= visible.end ||
           (page + 1) * kPageTokens <= visible.begin;
  }

  // A pass over the keys alone, from its first message to its end.
  __device__ __forceinline__ void ReadPass(Pass pass) {
    for (;;) {
      BarrierWait(SharedAddress(&control.full[stage]), parity);
      const int page = control.message[stage].page;
      if (__any_sync(~0u, page < 0)) break;
      if (__any_sync(~0u, Skips(page) || pass != need)) {
        Release();
        continue;
      }
      float c[32];
      Multiply(c, page);
      Release();
      if (pass != Pass::kMaximum) {
        AddPage(c, page);
      } else {
#pragma unroll
        for (int i = 0; i < 32; i++) most[i / 2 % 2] = fmaxf(most[i / 2 % 2], c[i]);
      }
    }
    Release();
    if (active && pass == need) EndPass();
  }

  // The last pass, from its first message to its end.
  __device__ __forceinline__ void WriteOutput() {
    float out[kChunks][32];
#pragma unroll
    for (int c = 0; c < kChunks; c++) {
#pragma unroll
      for (int i = 0; i < 32; i++) out[c][i] = 0;
    }
    for (;;) {
      BarrierWait(SharedAddress(&control.full[stage]), parity);
      const int page = control.message[stage].page;
      if (__any_sync(~0u, page < 0)) break;
      if (!__any_sync(~0u, Skips(page))) AddValues(page, out);
      Release();
    }
    Release();
    if (active) Finish(out);
  }

  // Says what the row tile needs next, the same in all of its warps.
  __device__ __forceinline__ void Vote() {
    if (lane == 0) {
      control.need[warpgroup * 4 + warp] = active ? need : Pass::kOutput;
      BarrierArrive(SharedAddress(&control.votes));
    }
    __syncwarp();
  }

  __device__ __forceinline__ void Start(int block_index) {
    index = block_index;
    active = p.dense_mask[index] >> warpgroup & 1;
    if (!active) return;
    const Block block = BlockAt(index, p.args.slices, p.args.num_slices, p.blocks_per_head,
                                p.args.num_kv_heads, p.head_group, p.group, Shape::kRows);
    slice_index = block.slice;
    kv_head = block.kv_head;
    const Slice slice = p.args.slices[slice_index];
    total = slice.context_tokens + slice.num_tokens;
    first_row = block.first_row + warpgroup * kTileRows;
    first_page = Visible(slice.context_tokens + block.first_row / p.group).begin / kPageTokens;
    bool unknown = false;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int r = warp * 16 + lane / 4 + 8 * h;
      const QueryRow row = MakeQueryRow(p, slice, kv_head, first_row + r);
      position[h] = row.position;
      width[h] = row.width;
      inverse_width[h] = 1 / row.width;
      slope[h] = row.slope;
      alpha[h] = row.live ? row.alpha : 1.5f;
      floor[h] =
          row.live
              ? p.floors[static_cast<int64_t>(index) * Shape::kRows + warpgroup * kTileRows + r]
              : kDeadFloor;
      unknown |= floor[h] == kNoFloor;
      support[h] = 0;
    }
    attended_pages = 0;
    passes = 0;
    CopyQueries(slice);
    const int last = min(first_row + kTileRows - 1, slice.num_tokens * p.group - 1);
    const KeyRange low = Visible(slice.context_tokens + first_row / p.group);
    const KeyRange high = Visible(slice.context_tokens + last / p.group);
    visible = {low.begin, high.end};
    whole = {high.begin, low.end};
    biased = __any_sync(~0u, slope[0] != 0 || slope[1] != 0);
    samples = 0;
    // Rows of a row tile that see very different numbers of pages, or few, aren't sampled.
    sampled = (whole.end - whole.begin) / kPageTokens >= kSampleEvery * kFewestSampledPages;
    const Pass first_sums = sampled ? Pass::kSample : Pass::kSum;
    need = WarpgroupCount(BarrierId(), unknown) > 0 ? Pass::kMaximum : first_sums;
    ClearSums();
    if (!biased) SetBias(0);
  }

  // Two threads a row copy its query to shared memory: 8 x 8 matrices, those of 8 rows side by side.
  __device__ __forceinline__ void CopyQueries(const Slice& slice) {
    const int r = threadIdx.x % 128 / 2;
    const QueryRow row = MakeQueryRow(p, slice, kv_head, first_row + r);
    const __nv_bfloat16* from = p.args.q + row.row * p.args.q_stride + row.head * kDim;
    const uint32_t flip = row.negate ? 0x80008000u : 0u;
#pragma unroll 4
    for (int c = threadIdx.x % 2; c < kDim / 8; c += 2) {
      uint4 x = make_uint4(0, 0, 0, 0);
      if (row.live && !row.zero) x = *reinterpret_cast<const uint4*>(from + c * 8);
      x = make_uint4(x.x ^ flip, x.y ^ flip, x.z ^ flip, x.w ^ flip);
      *reinterpret_cast<uint4*>(query + r / 8 * (kDim * 16) + c * 128 + r % 8 * 16) = x;
    }
    AsyncProxyFence();
  }

  __device__ __forceinline__ void ClearSums() {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      sum[h] = first_power[h] = keys[h] = 0;
      most[h] = -INFINITY;
    }
  }

  __device__ __forceinline__ void SetBias(int page) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const float base = floor[h] == kNoFloor ? 0.0f : -floor[h];
      bias[h] = BiasPart(base, lane);
      bias[2 + h] = 0;
      if (!biased) continue;
      const float away = static_cast<float>(page * kPageTokens - position[h]);
      bias[h] = BiasPart(base + slope[h] * away, lane);
      bias[2 + h] = BiasPart(slope[h], lane);
    }
  }

  // Scores of the stage's page over the rows' floors.
  __device__ __forceinline__ void Multiply(float (&c)[32], int page) {
    if (biased) SetBias(page);
    const uint64_t tile_keys = RowDescriptor(stages + stage * 2 * Shape::kPageBytes);
    const uint64_t queries = PlainDescriptor(SharedAddress(query), 128, kDim * 16);
    PinAccumulators(c);
    WgmmaFence();
#pragma unroll
    for (int k = 0; k < kDim / 16; k++) {
      WgmmaN64Shared(c, queries + k * 16, tile_keys + (k / 4) * (kPageTokens * 8) + (k % 4) * 2,
                     k > 0);
    }
    WgmmaN64(c, bias, bias_columns, 1);
    WgmmaCommit();
    WgmmaWait<0>();
    PinAccumulators(c);
    if (Uniform((page + 1) * kPageTokens > whole.end || page * kPageTokens < whole.begin))
      Mask(c, page);
  }

  __device__ __forceinline__ void AddValues(int page, float (&out)[kChunks][32]) {
    float c[32];
    Multiply(c, page);
    uint32_t weights[4][4];
    MakeWeights(c, weights);
    const uint64_t values = ColumnDescriptor(
        stages + stage * 2 * Shape::kPageBytes + Shape::kPageBytes, kPageTokens * 128);
#pragma unroll
    for (int chunk = 0; chunk < kChunks; chunk++) PinAccumulators(out[chunk]);
    WgmmaFence();
#pragma unroll
    for (int k = 0; k < 4; k++) {
#pragma unroll
      for (int chunk = 0; chunk < kChunks; chunk++) {
        WgmmaN64</*kAcross=*/true>(out[chunk], weights[k],
                                   values + chunk * (kPageTokens * 8) + k * 128, 1);
      }
    }
    WgmmaCommit();
    WgmmaWait<0>();
#pragma unroll
    for (int chunk = 0; chunk < kChunks; chunk++) PinAccumulators(out[chunk]);
  }

  __device__ __forceinline__ void Mask(float (&c)[32], int page) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const KeyRange range = Visible(position[h]);
#pragma unroll
      for (int i = 0; i < 16; i++) {
        const int key = page * kPageTokens + (lane & 3) * 2 + i / 2 * 8 + i % 2;
        if (key < range.begin || key >= range.end) c[i / 2 * 4 + 2 * h + i % 2] = -INFINITY;
      }
    }
  }

  __device__ __forceinline__ void AddPage(const float (&c)[32], int page) {
    uint32_t all = ~0u;
#pragma unroll
    for (int i = 0; i < 32; i++) all &= __float_as_uint(c[i]);
    if (__all_sync(~0u, static_cast<int>(all) < 0)) return;
    const int bit = page - first_page;
    if (lane == 0 && bit < kDensePages) atomicOr(&attended[bit / 32], 1u << bit % 32);
#pragma unroll
    for (int i = 0; i < 32; i++) {
      const int h = i / 2 % 2;
      if constexpr (kForm ==
                    entmax::Form::kSquare) {  // in units of the score; EndPass divides by the width
        const float z = fmaxf(c[i], 0.0f);
        sum[h] += z * z;
        first_power[h] += z;
        keys[h] += c[i] > 0 ? 1.0f : 0.0f;
      } else {
        const float z = fmaxf(c[i], 0.0f) * inverse_width[h];
        entmax::PowerSums sums{sum[h], first_power[h], 0};
        entmax::Accumulate(WeightOf(h), z, sums);
        sum[h] = sums.s0;
        first_power[h] = sums.s1;
      }
    }
  }

  // Moves the floors by a pass's sums, nearer to the thresholds: up from below by Newton on the norm, or, where the sum is
  // of squares, to the root for the keys that have weight now. Another pass if some row wasn't within the tolerance.
  __device__ __forceinline__ void EndPass() {
    const float share = need == Pass::kSample ? kSampleEvery : 1;
    const float tolerance = need == Pass::kSample ? kSampleTolerance : kNormTolerance;
    bool again = need == Pass::kMaximum;
    bool down = false;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      if (need == Pass::kMaximum) {
        const float maximum = QuadMax(most[h]);
        if (floor[h] == kNoFloor) floor[h] = maximum - width[h];
        continue;
      }
      const entmax::WeightFunction w = WeightOf(h);
      entmax::PowerSums sums{QuadSum(sum[h]) * share, QuadSum(first_power[h]) * share, 0};
      float count = QuadSum(keys[h]) * share;
      if constexpr (kForm == entmax::Form::kSquare) {
        sums.s0 *= inverse_width[h] * inverse_width[h];
        sums.s1 *= inverse_width[h];
      }
      if (!(sums.s1 > 0)) continue;
      const float excess = sums.s0 - 1;
      float up = -entmax::NormNewton(w, sums, 0.0f);
      const bool close = excess > -0.6f && excess < 1;
      if constexpr (kForm == entmax::Form::kSquare) {
        const float discriminant = sums.s1 * sums.s1 - count * excess;
        if (close && discriminant > 0) up = excess / (sums.s1 + sqrtf(discriminant));
      }
      // The step's error is of third order with squares, of second order without.
      const float enough = kForm == entmax::Form::kSquare ? fmaxf(tolerance, 0.03f) : tolerance;
      again |= fabsf(excess) > w.exponent * enough;
      down |= up < 0 && floor[h] < kDeadFloor;
      floor[h] += up * width[h];
    }
    if (__any_sync(~0u, down) && need == Pass::kSum && lane == 0) {
      *const_cast<volatile int32_t*>(&control.lowered) = 1;
    }
    passes += need == Pass::kSum;
    samples += need == Pass::kSample;
    const bool more = WarpgroupCount(BarrierId(), again) > 0 && passes < kMaxDensePasses;
    if (need == Pass::kSum) {
      need = more ? Pass::kSum : Pass::kOutput;
    } else {
      const bool sample = sampled && samples < kMaxSamplePasses && more;
      need = sample ? Pass::kSample : Pass::kSum;
    }
    ClearSums();
    if (!biased) SetBias(0);
  }

  // The weights of a page as the A operand of their product with the values. `sum` is of what the product sees, rounded,
  // `first_power` of the weights themselves.
  __device__ __forceinline__ void MakeWeights(const float (&c)[32], uint32_t (&weights)[4][4]) {
#pragma unroll
    for (int i = 0; i < 16; i++) {
      const int h = i % 2;
      float x[2];
#pragma unroll
      for (int e = 0; e < 2; e++) {
        x[e] = entmax::Weight(WeightOf(h), fmaxf(c[2 * i + e], 0.0f) * inverse_width[h]);
        if (p.args.stats) {
          support[h] += c[2 * i + e] > 0;
          first_power[h] += x[e];
        }
      }
      const __nv_bfloat162 pair = __floats2bfloat162_rn(x[0], x[1]);
      const uint32_t bits = *reinterpret_cast<const uint32_t*>(&pair);
      weights[i / 4][i % 4] = bits;
      sum[h] += __uint_as_float(bits << 16);
      sum[h] += __uint_as_float(bits & 0xffff0000u);
    }
    if (p.args.stats) {
      uint32_t any = 0;
#pragma unroll
      for (int i = 0; i < 16; i++) any |= weights[i / 4][i % 4];
      // Rounded weights stand in for the unrounded ones here.
      attended_pages += WarpgroupCount(BarrierId(), any != 0) > 0;
    }
  }

  __device__ __forceinline__ void Finish(const float (&out)[kChunks][32]) {
    const Slice slice = p.args.slices[slice_index];
    RowCounts counts[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const float all = QuadSum(sum[h]);
      const float scale = 1 / all;
      counts[h].live = floor[h] < kDeadFloor;
      counts[h].support = static_cast<int>(QuadSum(static_cast<float>(support[h])));
      counts[h].iterations = passes;
      counts[h].residual = fabsf(QuadSum(first_power[h]) - 1);
      if (!counts[h].live) continue;
      const int r = first_row + warp * 16 + lane / 4 + 8 * h, token = r / p.group;
      __nv_bfloat16* to = p.args.out + (slice.first_row + token) * p.args.out_stride +
                          (kv_head * p.group + r - token * p.group) * kDim + (lane & 3) * 2;
#pragma unroll
      for (int i = 0; i < kDim / 8; i++) {
        const float* pair = &out[i / 8][i % 8 * 4 + 2 * h];
        *reinterpret_cast<__nv_bfloat162*>(to + i * 8) =
            __floats2bfloat162_rn(pair[0] * scale, pair[1] * scale);
      }
    }
    active = false;
    if (!p.args.stats) return;
    AttentionStats* stats = p.args.stats + slice_index;
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
    if (warp != 0) return;
    const int pages = CeilDiv(visible.end, kPageTokens) - visible.begin / kPageTokens;
    AddTo(&stats->blocks_considered, pages);
    AddTo(&stats->blocks_scored, pages);
    AddTo(&stats->blocks_attended, attended_pages);
  }
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_PREFILL_DENSE_TILE_H_
