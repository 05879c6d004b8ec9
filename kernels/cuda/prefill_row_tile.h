// A consumer warpgroup of the search kernel: 64 query rows against tile after tile of keys.
#ifndef TAUSERVE_KERNELS_CUDA_PREFILL_ROW_TILE_H_
#define TAUSERVE_KERNELS_CUDA_PREFILL_ROW_TILE_H_

#include "kernels/cuda/prefill_search.h"
#include "kernels/cuda/value_gather.h"

namespace tauserve::cuda {

// A row tile goes to the dense kernel if, after four tiles or more, half of its threads hold more candidates than this
// for their two rows, of which each has a quarter: 40 keys a row.
inline constexpr int kDenseEntries = 20;
inline constexpr float kNoFloor = -1e30f;   // of rows that saw no key yet
inline constexpr float kDeadFloor = 1e30f;  // of rows that aren't there: nothing passes
inline constexpr float kLastStep =
    2e-4f;  // of the threshold, in widths; what is left is its square
inline constexpr int kMaxFinalSteps = 16;

template <int kDim, int kWarpgroups, entmax::Form kForm>
struct RowTileSearch {
  using Shape = SearchShape<kDim, kWarpgroups>;
  using Control = SearchControl<Shape::kStages, kWarpgroups>;
  using Lists = CandidateLists<Shape::kStep, Shape::kCapacity>;
  static constexpr int kCapacity = Shape::kCapacity;

  const PrefillParams& p;
  Control& control;
  StageMessage& block;  // in shared memory, as keys and rows
  RowTileKeys& keys;
  RowConstants* rows;     // the thread's first row; the second is rows[8]
  uint32_t* bitmap;       // of the warpgroup
  uint32_t stages;        // shared address of the ring
  uint32_t bias_columns;  // shared address
  int warpgroup, warp, lane;
  int stage = 0;
  uint32_t parity = 0;

  // The block, and the thread's two rows.
  bool idle = true;  // nothing to do, or left to the dense kernel
  bool dense = false;
  bool overflow = false;  // of the warp's lists
  bool biased = false;    // some row has an ALiBi slope: the bias changes with the tile
  bool ready = false;     // all the warp's rows have floors
  bool row_ready[2];
  Lists lists;
  uint32_t query[kDim / 16][4];
  uint32_t bias[4];
  float floor[2], inverse_width[2];
  int first_tile = 0;                   // with keys that some row sees
  uint32_t num_tiles = 0;               // from there; 0 while idle
  int first_whole = 0, last_whole = 0;  // tiles that every row sees whole
  int seen = 0, next_raise = 0, reserve = 0, scored_partly = 0;

  __device__ __forceinline__ void Release() {
    __syncwarp();
    if (lane == 0) BarrierArrive(SharedAddress(&control.empty[stage]));
    if (++stage == Shape::kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
  __device__ __forceinline__ int BarrierId() const { return 1 + warpgroup; }
  // Computed anew at its rare uses: the compiler would keep it, or divide every tile.
  __device__ __forceinline__ float Width(int h) const {
    float width;
    asm volatile("rcp.approx.ftz.f32 %0, %1;" : "=f"(width) : "f"(inverse_width[h]));
    return width;
  }
  __device__ __forceinline__ entmax::WeightFunction WeightOf(int h) const {
    entmax::WeightFunction w;
    if constexpr (kForm == entmax::Form::kGeneral) {
      w = entmax::MakeWeightFunction(rows[8 * h].alpha);
    } else {
      w.form = kForm;
      w.exponent = kForm == entmax::Form::kSquare ? 2 : 1;
      w.alpha = kForm == entmax::Form::kSquare ? 1.5f : 2.0f;
    }
    return w;
  }
  __device__ __forceinline__ KeyRange Visible(int at) const {
    return VisibleKeys(at, keys.total, p.args.causal, p.args.sliding_window);
  }

  __device__ __forceinline__ int AwaitStage() {
    BarrierWait(SharedAddress(&control.full[stage]), parity);
    return control.message[stage].tile;
  }

  __device__ void Run() {
    int tile = AwaitStage();
    for (;;) {
      if (__any_sync(~0u, tile < 0)) {
        Finish();
        if (tile == StageMessage::kEnd) return;
        __syncwarp();
        if (lane == 0) block = control.message[stage];
        Release();
        Start();
        tile = AwaitStage();
      } else if (__any_sync(~0u, static_cast<uint32_t>(tile - first_tile) >= num_tiles)) {
        Release();
        tile = AwaitStage();
      } else {
        tile = SearchTile(tile);
      }
    }
  }

  __device__ __forceinline__ void Start() {
    const Slice slice = p.args.slices[block.slice];
    const int first = block.first_row + warpgroup * kTileRows;
    if (lane == 0) keys.total = slice.context_tokens + slice.num_tokens;
    __syncwarp();
    bool any = false, bias_any = false;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const QueryRow row =
          MakeQueryRow(p, slice, block.kv_head, first + warp * 16 + lane / 4 + 8 * h);
      LoadQuery<kDim>(p, row, h, lane, query);
      any |= row.live;
      inverse_width[h] = 1 / row.width;
      bias_any |= row.slope != 0;
      floor[h] = row.live ? kNoFloor : kDeadFloor;
      row_ready[h] = !row.live;
      float norm = 0;
      if (block.key_norm > 0) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < kDim / 16; i++) {
#pragma unroll
          for (int k = 0; k < 2; k++) {
            const float x = __uint_as_float(query[i][2 * k + h] << 16);
            const float y = __uint_as_float(query[i][2 * k + h] & 0xffff0000u);
            sum += x * x + y * y;
          }
        }
        norm = sqrtf(QuadSum(sum)) * 1.0001f;
      }
      if ((lane & 3) == 0) rows[8 * h] = {row.alpha, row.slope, norm, row.position};
    }
    const int last = min(first + kTileRows - 1, slice.num_tokens * p.group - 1);
    const KeyRange low = Visible(slice.context_tokens + first / p.group);
    const KeyRange high = Visible(slice.context_tokens + last / p.group);
    if (lane == 0) {
      keys.visible = {low.begin, high.end};
      keys.whole = {high.begin, low.end};
    }
    __syncwarp();
    idle = WarpgroupCount(BarrierId(), any) == 0;
    first_tile = low.begin / kSearchKeys;
    num_tiles = idle ? 0 : CeilDiv(high.end, kSearchKeys) - first_tile;
    first_whole = CeilDiv(high.begin, kSearchKeys);
    last_whole = low.end / kSearchKeys - 1;
    if (idle && (threadIdx.x & 127) == 0) Stop();
    dense = false;
    overflow = false;
    ready = false;
    seen = 0;
    next_raise = 2;
    reserve = kCapacity / 3;
    scored_partly = 0;
    lists.Clear();
    biased = __any_sync(~0u, bias_any);
    if (!biased) SetBias(0);
  }

  // Tells the producer that this warpgroup needs no more keys of the block.
  __device__ __forceinline__ void Stop() {
    *const_cast<volatile int32_t*>(&control.stopped[warpgroup]) = block.sequence;
  }

  __device__ __forceinline__ void SetBias(int tile) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const float base = floor[h] == kNoFloor ? 0.0f : -floor[h];
      bias[h] = BiasPart(base, lane);
      bias[2 + h] = 0;
      if (!biased) continue;
      const float slope = rows[8 * h].slope;
      const int away = tile * kSearchKeys - rows[8 * h].position;
      bias[h] = BiasPart(base + slope * static_cast<float>(away), lane);
      bias[2 + h] = BiasPart(slope, lane);
    }
  }

  // Returns the next stage's tile, looked up while the products run.
  __device__ __forceinline__ int SearchTile(int tile) {
    float c[64];
    if (biased) [[unlikely]]
      SetBias(tile);
    PinAccumulators(c);
    WgmmaFence();
    const uint32_t keys = stages + stage * Shape::kStageBytes;
#pragma unroll
    for (int k = 0; k < kDim / 16; k++) {
      WgmmaN128(c, query[k], RowDescriptor(keys + k / 4 * (kSearchKeys * 128) + k % 4 * 32), k > 0);
    }
    WgmmaN128(c, bias, PlainDescriptor(bias_columns, 128, 256), 1);
    WgmmaCommit();
    const bool wraps = stage + 1 == Shape::kStages;
    const int next_stage = wraps ? 0 : stage + 1;
    const bool known = __all_sync(
        ~0u, BarrierTest(SharedAddress(&control.full[next_stage]), parity ^ (wraps ? 1 : 0)));
    // Behind the branch, or the load could overtake the test (seen: stale messages, and a hang).
    int next_tile = 0;
    if (known) next_tile = *const_cast<volatile int32_t*>(&control.message[next_stage].tile);
    WgmmaWait<0>();
    PinAccumulators(c);
    Release();
    if (tile < first_whole || tile > last_whole) [[unlikely]]
      Mask(c, tile);
    seen++;
    const bool due = seen == next_raise;
    if (!overflow) Collect(c, tile, due);
    if (due) [[unlikely]] {
      next_raise *= 2;
      if (seen >= 4) ChooseDense();
    }
    return known ? next_tile : AwaitStage();
  }

  __device__ __forceinline__ void Mask(float (&c)[64], int tile) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const KeyRange range = Visible(rows[8 * h].position);
      const int column = tile * kSearchKeys + (lane & 3) * 2;
      if (floor[h] < kDeadFloor) {
        const int seen_keys =
            min(range.end, (tile + 1) * kSearchKeys) - max(range.begin, tile * kSearchKeys);
        scored_partly += max(seen_keys, 0) - kSearchKeys;
      }
#pragma unroll
      for (int j = 0; j < 16; j++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const int key = column + j * 8 + e;
          if (key < range.begin || key >= range.end) c[4 * j + 2 * h + e] = -INFINITY;
        }
      }
    }
  }

  // Puts the scores above the floors into the lists; raises the floors after, if that is due or the lists get full.
  __device__ __forceinline__ void Collect(float (&c)[64], int tile, bool due) {
    for (int attempt = 0;; attempt++) {
      if (attempt == 0 ? !ready : attempt == 2) [[unlikely]]
        RaiseInRegisters(c);
      uint32_t none = 0;  // bit g: none of the thread's scores 4g to 4g + 3 passed
#pragma unroll
      for (int g = 15; g >= 0; g--) {
        uint32_t signs = __float_as_uint(c[4 * g]);
#pragma unroll
        for (int i = 1; i < 4; i++) signs &= __float_as_uint(c[4 * g + i]);
        none = __funnelshift_l(signs, none, 1);
      }
      const uint32_t mine = ~none & 0xffffu;
      const uint32_t any = __reduce_or_sync(~0u, mine);
      if (any != 0) {
        if (!__all_sync(~0u, lists.HasRoom(4 * __popc(mine)))) [[unlikely]] {
          int passed = 0;
#pragma unroll
          for (int i = 0; i < 64; i++) passed += __float_as_int(c[i]) >= 0;
          if (!__all_sync(~0u, lists.HasRoom(passed))) {
            if (attempt == 2) {
              overflow = true;
              return;
            }
            if (attempt == 0) {
              float raised[2] = {0, 0};
              RaiseFloors(raised);
#pragma unroll
              for (int i = 0; i < 64; i++) c[i] -= raised[i / 2 % 2];
            }
            continue;
          }
        }
        PushGroups(c, tile, any);
        due |= __any_sync(~0u, !lists.HasRoom(reserve));
      }
      if (due) {
        float raised[2] = {0, 0};
        RaiseFloors(raised);
      }
      return;
    }
  }

  // `groups`: those in which some thread of the warp has a score to keep.
  __device__ __forceinline__ void PushGroups(const float (&c)[64], int tile, uint32_t groups) {
#pragma unroll
    for (int g = 0; g < 16; g++) {
      if (!(groups >> g & 1)) continue;
      const uint32_t group = tile * 16 + g;
      lists.template PushIfPositive<0>(c[4 * g], 0, group);
      lists.template PushIfPositive<0>(c[4 * g + 1], 1, group);
      lists.template PushIfPositive<1>(c[4 * g + 2], 2, group);
      lists.template PushIfPositive<1>(c[4 * g + 3], 3, group);
    }
  }

  // Floors from this tile's scores alone: maximum - width, then two Newton steps. Scores of rows that had no floor are
  // over zero, the others' over their floor.
  __device__ __forceinline__ void RaiseInRegisters(float (&c)[64]) {
    float raise[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float most = -INFINITY;
#pragma unroll
      for (int j = 0; j < 16; j++)
        most = fmaxf(most, fmaxf(c[4 * j + 2 * h], c[4 * j + 2 * h + 1]));
      most = QuadMax(most);
      const float width = Width(h);
      float t = most - width;
      if (row_ready[h]) t = fmaxf(t, 0.0f);
      const bool quartic = kForm == entmax::Form::kGeneral && rows[8 * h].alpha < 1.5f;
      const bool steep = kForm == entmax::Form::kGeneral && rows[8 * h].alpha < 1.25f;
#pragma unroll 1
      for (int step = 0; step < 2; step++) {
        entmax::PowerSums sums;
#pragma unroll
        for (int j = 0; j < 16; j++) {
#pragma unroll
          for (int e = 0; e < 2; e++) {
            const float z = fmaxf(c[4 * j + 2 * h + e] - t, 0.0f) * inverse_width[h];
            if constexpr (kForm == entmax::Form::kLinear) {
              sums.s0 += z;
              sums.s1 += z > 0;
            } else {
              // The norm falls with the exponent, so 2 serves for exponents up to 2 and 4 up to 4.
              const float cube = quartic ? z * z * z : z;
              sums.s0 += cube * z;
              sums.s1 += cube;
            }
          }
        }
        sums.s0 = QuadSum(sums.s0);
        sums.s1 = QuadSum(sums.s1);
        float norm = kForm == entmax::Form::kLinear ? sums.s0 : sqrtf(sums.s0);
        if (quartic) norm = sqrtf(norm);
        if (norm > 1 && sums.s1 > 0 && !steep) {
          t += (norm - 1) * sums.s0 / (norm * sums.s1) * width;
        }
      }
      raise[h] = most > -INFINITY && floor[h] < kDeadFloor ? t : 0.0f;
      if (floor[h] == kNoFloor && most > -INFINITY) {
        floor[h] = t;
        row_ready[h] = true;
      } else if (row_ready[h]) {
        floor[h] += raise[h];
      }
      const float by = row_ready[h] ? raise[h] : INFINITY;
#pragma unroll
      for (int j = 0; j < 16; j++) {
#pragma unroll
        for (int e = 0; e < 2; e++) c[4 * j + 2 * h + e] -= by;
      }
    }
    ready = __all_sync(~0u, row_ready[0] && row_ready[1]);
    if (!biased) SetBias(0);
    lists.Raise(raise);
  }

  // From the lists; adds to `raised` by how much.
  __device__ __forceinline__ void RaiseFloors(float (&raised)[2]) {
    const entmax::WeightFunction w[2] = {WeightOf(0), WeightOf(1)};
    const float shift[2] = {0, 0};
    float raise[2];
    lists.NewtonSteps(w, inverse_width, shift, raise);
#pragma unroll
    for (int h = 0; h < 2; h++) {
      raise[h] *= Width(h);
      floor[h] += raise[h];
      raised[h] += raise[h];
    }
    if (!biased) SetBias(0);
    lists.Raise(raise);
    const int room = static_cast<int>(lists.next[1] - lists.next[0]) / Shape::kStep + 1;
    reserve = min(kCapacity / 3, __reduce_min_sync(~0u, room) / 2);
    if (block.key_norm > 0) PublishOldestKey();
  }

  // Keys further back can't reach any floor of the warp: |q| |k| - slope * distance <= floor.
  __device__ __forceinline__ void PublishOldestKey() {
    int oldest = INT32_MAX;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      if (floor[h] >= kDeadFloor) continue;
      const RowConstants row = rows[8 * h];
      const float reach = (row.query_norm * block.key_norm - floor[h]) / row.slope;
      // false for NaN and for slope 0
      const bool bounded =
          row.slope > 0 && row_ready[h] && reach < static_cast<float>(row.position);
      oldest = min(oldest,
                   bounded ? row.position - static_cast<int>(fmaxf(reach, 0.0f) * 1.0001f) - 1 : 0);
    }
    oldest = max(__reduce_min_sync(~0u, oldest), 0);
    if (lane == 0) {
      *const_cast<volatile int64_t*>(&control.oldest_key[warpgroup * 4 + warp]) =
          static_cast<int64_t>(block.sequence) << 32 | oldest;
    }
  }

  // Uniform in the warpgroup.
  __device__ __forceinline__ void ChooseDense() {
    const bool wide = lists.Count(0) + lists.Count(1) > kDenseEntries;
    const int wide_threads = WarpgroupCount(BarrierId(), wide || overflow);
    const int overflows = WarpgroupCount(BarrierId(), overflow);
    if (overflows == 0 && wide_threads <= 64) return;
    dense = true;
    idle = true;
    num_tiles = 0;
    if ((threadIdx.x & 127) == 0) Stop();
  }

  __device__ void Finish();
  __device__ __forceinline__ bool MergeParts();
  __device__ __forceinline__ void AddScored();
  __device__ __forceinline__ void LeaveToDense();
  __device__ __forceinline__ void AddBlockStats(const RowCounts (&rows)[2]);
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_PREFILL_ROW_TILE_H_
