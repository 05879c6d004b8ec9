// A consumer warpgroup of the dense kernel: one row tile.
#ifndef TAUSERVE_KERNELS_CUDA_PREFILL_DENSE_TILE_H_
#define TAUSERVE_KERNELS_CUDA_PREFILL_DENSE_TILE_H_

#include "kernels/cuda/prefill_dense.h"

namespace tauserve::cuda {

template <typename Element, int kDim, int kWarpgroups, entmax::Form kForm>
struct DenseRowTile {
  using Shape = DenseShape<kDim, kWarpgroups>;
  using Control = DenseControl<Shape::kStages, kWarpgroups>;
  static constexpr int kChunks = Shape::kChunks;
  // Rows with weight on few keys multiply their weights in two parts. Float16's one part errs by an eighth as much as bfloat16's,
  // and no more than the output's rounding.
  static constexpr bool kTwoParts = !kIsFloat16<Element>;

  const PrefillParams<Element>& p;
  Control& control;
  uint32_t* live;         // bitmap of pages from the block's first that some row tile has weight in
  uint32_t* attended;     // the same of this row tile's output, for the statistics
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
  float floor[2], width[2], inverse_width[2], slope[2], alpha[2], exponent[2];
  int position[2];
  KeyRange visible, whole;
  bool biased, sampled;
  bool summed;         // the pass before read all keys
  bool few_keys;       // some row has weight on few, whose rounding does not average out
  int whole_exponent;  // of all the warp's rows: 3 or 4; 0 where they have another one
  int samples;
  uint32_t bias[4];
  float sum[2], first_power[2], most[2];  // of the running pass
  uint32_t below[2];                      // how many of the thread's scores were below the floor
  int pages;                              // with a score above
  float dead_top[2];                      // no score is higher on pages that had none above
  float last_slope[2],
      last_floor[2];  // of the pass before: where, and the slope of the sum's logarithm
  int attended_pages;

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
        if constexpr (kTwoParts) {
          few_keys ? WriteOutput<true>() : WriteOutput<false>();
        } else {
          WriteOutput<false>();
        }
      } else {
        ReadPass(pass);
        Vote();
      }
    }
  }

  __device__ __forceinline__ bool Skips(int page) const {
    return !active || page < 0 || page * kPageTokens >= visible.end ||
           (page + 1) * kPageTokens <= visible.begin;
  }

  // A pass over the keys alone, from its first message to its end.
  __device__ __forceinline__ void ReadPass(Pass pass) {
    const bool mine = pass == need;
    for (;;) {
      BarrierWait(SharedAddress(&control.full[stage]), parity);
      const DenseMessage& message = control.message[stage];
      const int page = Uniform(message.page), second = Uniform(message.second);
      if (page < 0) break;
      if (!mine || (Skips(page) && Skips(second))) {
        Release();
        continue;
      }
      if (Shape::kStagePages == 1 || biased) {
        float c[32];
        Multiply(c, 0, page);
        Add<0>(c, page, pass);
        if (!Skips(second)) {
          Multiply(c, 1, second);
          Add<0>(c, second, pass);
        }
        Release();
      } else if constexpr (Shape::kStagePages == 2) {
        float c[64];
        MultiplyBoth(c, page, second);
        Release();
        Add<0>(c, page, pass);
        Add<32>(c, second, pass);
      }
    }
    Release();
    if (active && mine) EndPass();
  }
  template <int kFirst, int kCount>
  __device__ __forceinline__ void Add(const float (&c)[kCount], int page, Pass pass) {
    if (pass != Pass::kMaximum) return AddPage<kFirst>(c, page, pass);
    RaiseMost(c + kFirst);
  }
  __device__ __forceinline__ void RaiseMost(const float* c) {
#pragma unroll
    for (int i = 0; i < 32; i++) most[i / 2 % 2] = fmaxf(most[i / 2 % 2], c[i]);
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
      exponent[h] = WeightOf(h).exponent;
      floor[h] =
          row.live
              ? p.floors[static_cast<int64_t>(index) * Shape::kRows + warpgroup * kTileRows + r]
              : kDeadFloor;
      unknown |= floor[h] == kNoFloor;
      dead_top[h] = -INFINITY;
    }
    for (int i = threadIdx.x & 127; i < kDensePages / 32; i += 128) attended[i] = 0;
    attended_pages = 0;
    passes = 0;
    summed = false;
    CopyQueries(slice);
    const int last = min(first_row + kTileRows - 1, slice.num_tokens * p.group - 1);
    const KeyRange low = Visible(slice.context_tokens + first_row / p.group);
    const KeyRange high = Visible(slice.context_tokens + last / p.group);
    visible = {low.begin, high.end};
    whole = {high.begin, low.end};
    // The same in all warps: products have other shapes then.
    biased = WarpgroupCount(BarrierId(), slope[0] != 0 || slope[1] != 0) > 0;
    if constexpr (kForm == entmax::Form::kGeneral) {
      whole_exponent = static_cast<int>(exponent[0] + 0.5f);
      const bool whole_power = exponent[0] == exponent[1] && exponent[0] == whole_exponent &&
                               (whole_exponent == 3 || whole_exponent == 4);
      const int first = Uniform(whole_exponent);
      if (!__all_sync(~0u, whole_power && whole_exponent == first)) whole_exponent = 0;
    }
    samples = 0;
    few_keys = false;
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
    const Element* from = p.args.q + row.row * p.args.q_stride + row.head * kDim;
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
      sum[h] = first_power[h] = 0;
      below[h] = 0;
      most[h] = -INFINITY;
    }
    pages = 0;
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

  // Scores of one of the stage's pages over the rows' floors.
  __device__ __forceinline__ void Multiply(float (&c)[32], int place, int page) {
    if (biased) SetBias(page);
    const uint32_t at = stages + stage * 2 * Shape::kKeyBytes + place * (kPageTokens * 128);
    PinAccumulators(c);
    WgmmaFence();
#pragma unroll
    for (int k = 0; k < kDim / 16; k++) {
      WgmmaN64Shared<Element>(c, QueryPart(k), KeyPart(at, k), k > 0);
    }
    WgmmaN64(c, bias, bias_columns, 1);
    WgmmaCommit();
    WgmmaWait<0>();
    PinAccumulators(c);
    if (!Whole(page)) Mask<0>(c, page);
  }
  // Of both pages.
  __device__ __forceinline__ void MultiplyBoth(float (&c)[64], int page, int second) {
    const uint32_t at = stages + stage * 2 * Shape::kKeyBytes;
    PinAccumulators(c);
    WgmmaFence();
#pragma unroll
    for (int k = 0; k < kDim / 16; k++) {
      WgmmaN128Shared<Element>(c, QueryPart(k), KeyPart(at, k), k > 0);
    }
    WgmmaN128(c, bias, bias_columns, 1);
    WgmmaCommit();
    WgmmaWait<0>();
    PinAccumulators(c);
    if (!Whole(page)) Mask<0>(c, page);
    if (!Whole(second)) Mask<32>(c, second);
  }
  // Columns 16k to 16k + 15 of the queries and of a stage's keys.
  __device__ __forceinline__ uint64_t QueryPart(int k) const {
    return PlainDescriptor(SharedAddress(query) + k * 256, 128, kDim * 16);
  }
  __device__ __forceinline__ uint64_t KeyPart(uint32_t at, int k) const {
    return RowDescriptor(at + k / 4 * (Shape::kStagePages * kPageTokens * 128) + k % 4 * 32);
  }
  __device__ __forceinline__ bool Whole(int page) const {
    return page * kPageTokens >= whole.begin && (page + 1) * kPageTokens <= whole.end;
  }

  template <int kFirst, int kCount>
  __device__ __forceinline__ void Mask(float (&c)[kCount], int page) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const KeyRange range = Visible(position[h]);
#pragma unroll
      for (int i = 0; i < 16; i++) {
        const int key = page * kPageTokens + (lane & 3) * 2 + i / 2 * 8 + i % 2;
        if (key < range.begin || key >= range.end)
          c[kFirst + i / 2 * 4 + 2 * h + i % 2] = -INFINITY;
      }
    }
  }

  template <int kFirst, int kCount>
  __device__ __forceinline__ void AddPage(const float (&all)[kCount], int page, Pass pass) {
    const float* c = all + kFirst;
    uint32_t signs = ~0u;
#pragma unroll
    for (int i = 0; i < 32; i++) signs &= __float_as_uint(c[i]);
    if (__all_sync(~0u, static_cast<int>(signs) < 0)) return RaiseMost(c);
    const int bit = page - first_page;
    if (pass == Pass::kSum && lane == 0 && bit < kDensePages) {
      atomicOr(&live[bit / 32], 1u << bit % 32);
    }
    pages++;
#pragma unroll
    for (int i = 0; i < 32; i++) {
      const int h = i / 2 % 2;
      below[h] += __float_as_uint(c[i]) >> 31;
      const float z = fmaxf(c[i], 0.0f);
      // In units of the score; EndPass divides by the width.
      if constexpr (kForm == entmax::Form::kSquare) {
        sum[h] = fmaf(z, z, sum[h]);
        first_power[h] += z;
      } else if constexpr (kForm == entmax::Form::kLinear) {
        sum[h] += z;
      } else {
        const float x = z * inverse_width[h];
        float power;
        if (whole_exponent != 0) {
          power = whole_exponent == 4 ? x * x * x : x * x;
        } else {
          power = x > 0 ? FastPower(x, exponent[h] - 1) : 0.0f;
        }
        sum[h] = fmaf(power, x, sum[h]);
        first_power[h] += power;
      }
    }
  }
  // x^e for x >= 0, e > 0, in hardware's precision.
  static __device__ __forceinline__ float FastPower(float x, float e) {
    float log, power;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(log) : "f"(x));
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(e * log));
    return power;
  }

  __device__ __forceinline__ float StepOf(int h, float s, float s1, float count, bool& close);
  __device__ __forceinline__ void EndPass();
  __device__ __forceinline__ void Finish(const float (&out)[kChunks][32]);
  template <bool kRests>
  __device__ __forceinline__ void WriteOutput();
  template <bool kRests>
  __device__ __forceinline__ void AddPageValues(int place, int page, float (&out)[kChunks][32]);
  template <bool kRests>
  __device__ __forceinline__ void AddValues(int place, int page, float (&out)[kChunks][32]);
  __device__ __forceinline__ void MakeWeights(const float (&c)[32], int page,
                                              uint32_t (&weights)[4][4]);
  __device__ __forceinline__ void MakeRests(const float (&c)[32], uint32_t (&rests)[4][4]) const;

  // Of a score over the floor.
  __device__ __forceinline__ float WeightAt(float score, int h) const {
    const float z = __saturatef(score * inverse_width[h]);
    if constexpr (kForm == entmax::Form::kSquare) return z * z;
    if constexpr (kForm == entmax::Form::kLinear) return z;
    const float square = z * z;
    return whole_exponent == 4   ? square * square
           : whole_exponent == 3 ? square * z
                                 : FastPower(z, exponent[h]);
  }
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_PREFILL_DENSE_TILE_H_
