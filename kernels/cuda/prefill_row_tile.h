// A consumer warpgroup of the search kernel: 64 query rows against tile after tile of keys.
#ifndef TAUSERVE_KERNELS_CUDA_PREFILL_ROW_TILE_H_
#define TAUSERVE_KERNELS_CUDA_PREFILL_ROW_TILE_H_

#include "kernels/cuda/prefill_search.h"
#include "kernels/cuda/value_gather.h"

namespace tauserve::cuda {

// A row tile goes to the dense kernel if, after four tiles or more, half of its threads hold more candidates than this
// for their two rows, of which each has a quarter: 52 keys a row. Lower, and rows that fit in the lists are computed three
// times slower (sigma 0.7 at 16k); higher, and more of those that don't are searched in vain first (sigma 0.5).
inline constexpr int kDenseEntries = 26;
// While floors are young most groups of accumulators hold a candidate, and all are looked through at once.
inline constexpr int kEagerTiles = 16;
inline constexpr float kNoFloor = -1e30f;   // of rows that saw no key yet
inline constexpr float kDeadFloor = 1e30f;  // of rows that aren't there: nothing passes
inline constexpr float kLastStep =
    2e-4f;  // of the threshold, in widths; what is left is its square
inline constexpr int kMaxFinalSteps = 16;

template <typename Element, int kDim, int kWarpgroups, entmax::Form kForm>
struct RowTileSearch {
  using Shape = SearchShape<kDim, kWarpgroups>;
  using Control = SearchControl<Shape::kStages, kWarpgroups>;
  using Lists = CandidateLists<Shape::kStep, Shape::kCapacity>;
  static constexpr int kCapacity = Shape::kCapacity;

  const PrefillParams<Element>& p;
  Control& control;
  StageMessage& block;  // in shared memory, as keys and rows
  RowTileKeys& keys;
  RowConstants* rows;     // the thread's first row; the second is rows[8]
  uint32_t* bitmap;       // of the warpgroup
  uint32_t key_part;      // of the ring, in units of 16 bytes
  uint32_t bias_columns;  // shared address
  int warpgroup, warp, lane;
  int stage = 0;
  uint32_t parity = 0;

  // The block, and the thread's two rows.
  bool idle = true;  // nothing to do, or left to the dense kernel
  bool dense = false;
  bool overflow = false;  // of the warp's lists
  bool biased = false;    // some row has an ALiBi slope: the bias changes with the tile
  Lists lists;
  uint32_t query[kDim / 16][4];
  uint32_t bias[4];
  float floor[2];
  int first_whole = 0;       // tile that every row sees whole
  uint32_t plain_tiles = 0;  // from there: all such, or none while idle or where the bias changes
  int seen = 0;
  int next_stop = 0;  // how many tiles are seen when something is due
  int reserve = 0, scored_partly = 0;

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
    asm volatile("rcp.approx.ftz.f32 %0, %1;" : "=f"(width) : "f"(rows[8 * h].inverse_width));
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
  // Rows that aren't there have one, too.
  __device__ __forceinline__ bool HasFloor(int h) const { return floor[h] != kNoFloor; }
  __device__ __forceinline__ bool HaveFloors() const {
    return __all_sync(~0u, HasFloor(0) && HasFloor(1));
  }
  __device__ __forceinline__ bool HasKeyNorm() const {
    return PrefillParams<Element>::kServed && block.key_norm > 0;
  }
  __device__ __forceinline__ KeyRange Visible(int at) const {
    return VisibleKeys(at, keys.total, p.args.causal, p.args.sliding_window);
  }

  __device__ __forceinline__ int AwaitStage() {
    BarrierWait(SharedAddress(&control.full[stage]), parity);
    return control.message[stage].tile;
  }

  __device__ void Run() {
    float c[64];
    Next next{AwaitStage(), true};
    for (;;) {
      // Nearly all tiles: seen whole by all rows, candidates few enough to be set aside. A loop of its own, since the rest
      // is long and would lie between its instructions.
      bool scored = false;
      int tile;
      for (;;) {
        tile = next.known ? next.tile : AwaitStage();
        if (!__all_sync(~0u, static_cast<uint32_t>(tile - first_whole) < plain_tiles)) break;
        next = Score(c);
        if (++seen >= next_stop || !SetAside(c, tile)) {
          scored = true;
          break;
        }
      }
      if (!scored) {
        if (__any_sync(~0u, tile < 0)) {
          Finish();
          if (tile == StageMessage::kEnd) return;
          __syncwarp();
          if (lane == 0) block = control.message[stage];
          Release();
          Start();
          next.known = false;
          continue;
        }
        if (__any_sync(~0u, idle || tile * kSearchKeys >= keys.visible.end ||
                                (tile + 1) * kSearchKeys <= keys.visible.begin)) {
          Release();
          next.known = false;
          continue;
        }
        if (biased) SetBias(tile);
        next = Score(c);
        seen++;
        if (tile * kSearchKeys < keys.whole.begin || (tile + 1) * kSearchKeys > keys.whole.end) {
          Mask(c, tile);
        }
      }
      CollectTile(c, tile);
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
      bias_any |= row.slope != 0;
      floor[h] = row.live ? kNoFloor : kDeadFloor;
      float norm = 0;
      if (HasKeyNorm()) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < kDim / 16; i++) {
#pragma unroll
          for (int k = 0; k < 2; k++) {
            const float x = LowOf<Element>(query[i][2 * k + h]);
            const float y = HighOf<Element>(query[i][2 * k + h]);
            sum += x * x + y * y;
          }
        }
        norm = sqrtf(QuadSum(sum)) * 1.0001f;
      }
      if ((lane & 3) == 0) {
        rows[8 * h] = {row.alpha, row.slope, norm, 1 / row.width, row.position};
      }
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
    first_whole = CeilDiv(high.begin, kSearchKeys);
    if (idle && (threadIdx.x & 127) == 0) Stop();
    dense = false;
    overflow = false;
    seen = 0;
    next_stop = 1;
    reserve = kCapacity / 3;
    scored_partly = 0;
    lists.Clear();
    // Equal in all its warps, as which loop a tile is read in: products are the warpgroup's.
    biased = WarpgroupCount(BarrierId(), bias_any) > 0;
    plain_tiles = idle || biased ? 0 : max(low.end / kSearchKeys - first_whole, 0);
    if (!biased) SetBias(0);
  }

  // Tells the producer that this warpgroup needs no more keys of the block.
  __device__ __forceinline__ void Stop() {
    StoreRelaxed(&control.stopped[warpgroup], block.sequence);
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

  // What the next stage holds, if it was there before this one's scores.
  struct Next {
    int tile;
    bool known;
  };

  // The scores of the stage's tile over the floors; the next stage is looked up while the products run.
  __device__ __forceinline__ Next Score(float (&c)[64]) {
    // A reduction's result is known to be the same in all threads, as descriptors must be.
    const uint32_t part = __reduce_or_sync(~0u, key_part + stage * (Shape::kStageBytes / 16));
    PinAccumulators(c);
    WgmmaFence();
#pragma unroll
    for (int k = 0; k < kDim / 16; k++) {
      const uint32_t low = part + (k / 4 * (kSearchKeys * 128) + k % 4 * 32) / 16;
      WgmmaN128<false, Element>(c, query[k], RowDescriptorOf(low), k > 0);
    }
    WgmmaN128(c, bias, PlainDescriptor(bias_columns, 128, 256), 1);
    WgmmaCommit();
    const bool wraps = stage + 1 == Shape::kStages;
    const int next_stage = wraps ? 0 : stage + 1;
    Next next{};
    next.known = __all_sync(
        ~0u, BarrierTest(SharedAddress(&control.full[next_stage]), parity ^ (wraps ? 1 : 0)));
    // Behind the branch, or the load could overtake the test (seen: stale messages, and a hang).
    if (next.known) {
      next.tile = *const_cast<volatile int32_t*>(&control.message[next_stage].tile);
    }
    WgmmaWait<0>();
    PinAccumulators(c);
    Release();
    return next;
  }

  // Puts a tile's scores above the floors into the lists, with no records there, and does what is due.
  __device__ __forceinline__ void CollectTile(float (&c)[64], int tile) {
    lists.Flush();
    const bool due = seen >= 2 && (seen & (seen - 1)) == 0;
    if (!overflow) {
      bool raise = due;
      Collect(c, tile, raise);
      if (raise) {
        float raised[2] = {0, 0};
        RaiseFloors(raised);
      }
    }
    if (due && seen >= 4) ChooseDense();
    // Rows that have no floor yet, or more candidates than fit, never set aside; nor do the first tiles.
    next_stop =
        overflow || seen < kEagerTiles || !HaveFloors() ? seen + 1 : 2 << (31 - __clz(seen));
  }

  // Bit g: one of the thread's scores 4g to 4g + 3 is over its floor.
  static __device__ __forceinline__ uint32_t Passed(const float (&c)[64]) {
    uint32_t none = 0;
#pragma unroll
    for (int g = 15; g >= 0; g--) {
      uint32_t signs = __float_as_uint(c[4 * g]);
#pragma unroll
      for (int i = 1; i < 4; i++) signs &= __float_as_uint(c[4 * g + i]);
      none = __funnelshift_l(signs, none, 1);
    }
    return ~none & 0xffffu;
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

  // Sets the scores above the floors aside; false if there is no room for them.
  __device__ __forceinline__ bool SetAside(const float (&c)[64], int tile) {
    // Level by level, since each instruction waits for the one before it in its own group. The signs of 8g to 8g + 7:
    uint32_t signs[8];
#pragma unroll
    for (int g = 0; g < 8; g++) signs[g] = And(c[8 * g], c[8 * g + 1], c[8 * g + 2]);
#pragma unroll
    for (int i = 3; i < 7; i += 2) {
#pragma unroll
      for (int g = 0; g < 8; g++) {
        signs[g] = And(__uint_as_float(signs[g]), c[8 * g + i], c[8 * g + i + 1]);
      }
    }
#pragma unroll
    for (int g = 0; g < 8; g++) signs[g] &= __float_as_uint(c[8 * g + 7]);
    // Byte g % 4, upper half for g >= 4: whether one passed.
    const uint32_t mine = ~(SignBytes(signs) & 0x0f0f0f0fu | SignBytes(signs + 4) & 0xf0f0f0f0u);
    const uint32_t any = __reduce_or_sync(~0u, mine);
    if (any == 0) return true;
    if (!__all_sync(~0u, lists.HasRoomForRecords(__popc(mine) / 4))) return false;
    if (any & 0x0f0f0f0fu) lists.SetAside(c, tile * 16, mine);
    if (any & 0xf0f0f0f0u) lists.SetAside(c + 32, tile * 16 + 8, mine >> 4);
    return true;
  }
  static __device__ __forceinline__ uint32_t And(float x, float y, float z) {
    uint32_t all;
    asm volatile("lop3.b32 %0, %1, %2, %3, 0x80;"
                 : "=r"(all)
                 : "r"(__float_as_uint(x)), "r"(__float_as_uint(y)), "r"(__float_as_uint(z)));
    return all;
  }
  // Byte i: all ones if x[i] is negative, else zero.
  static __device__ __forceinline__ uint32_t SignBytes(const uint32_t* x) {
    uint32_t low, high;
    asm("prmt.b32 %0, %1, %2, 0xfbfb;" : "=r"(low) : "r"(x[0]), "r"(x[1]));
    asm("prmt.b32 %0, %1, %2, 0xfbfb;" : "=r"(high) : "r"(x[2]), "r"(x[3]));
    return __byte_perm(low, high, 0x5410);
  }

  // `raise`: the floors are to be raised.
  __device__ __forceinline__ void Collect(float (&c)[64], int tile, bool& raise) {
    for (int attempt = 0;; attempt++) {
      if (attempt == 0 ? !HaveFloors() : attempt == 2) RaiseInRegisters(c);
      const uint32_t passed = Passed(c);
      const uint32_t any = __reduce_or_sync(~0u, passed);
      if (any != 0) {
        if (!__all_sync(~0u, lists.HasRoom(4 * __popc(passed)))) {
          int count = 0;
#pragma unroll
          for (int i = 0; i < 64; i++) count += __float_as_int(c[i]) >= 0;
          if (!__all_sync(~0u, lists.HasRoom(count))) {
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
        raise |= __any_sync(~0u, !lists.HasRoom(reserve));
      }
      return;
    }
  }

  // `groups`: those in which some thread of the warp has a score to keep.
  __device__ __forceinline__ void PushGroups(const float (&c)[64], int tile, uint32_t groups) {
#pragma unroll
    for (int g = 0; g < 16; g += 2) {
      if (groups >> g & 3) lists.PushPositive(c + 4 * g, tile * 16 + g);
    }
    lists.StartRecords();
  }

  __device__ __forceinline__ void RaiseInRegisters(float (&c)[64]);
  __device__ __forceinline__ void RaiseFloors(float (&raised)[2]);
  __device__ __forceinline__ void PublishOldestKey();
  __device__ __forceinline__ void ChooseDense();

  __device__ void Finish();
  __device__ __forceinline__ void KeepSupport(int first_row, const Slice& slice,
                                              const float (&shift)[2],
                                              const float (&inverse_width)[2]);
  __device__ __forceinline__ bool MergeParts();
  __device__ __forceinline__ void AddScored();
  __device__ __forceinline__ void LeaveToDense();
  __device__ __forceinline__ void AddBlockStats(const RowCounts (&rows)[2]);
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_PREFILL_ROW_TILE_H_
