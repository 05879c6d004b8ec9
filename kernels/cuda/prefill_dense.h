// The dense kernel of prefill_sm90.h, for row tiles that the search left: passes over the keys sum the weights above
// every row's floor and raise it by Newton steps on the norm until the threshold is exact, then a last pass multiplies
// the weights with the values, as flash attention does. Pages without weight are skipped after the first pass. Nothing
// is kept of single keys, so any support fits.
#ifndef TAUSERVE_KERNELS_CUDA_PREFILL_DENSE_H_
#define TAUSERVE_KERNELS_CUDA_PREFILL_DENSE_H_

#include "kernels/cuda/hopper.h"
#include "kernels/cuda/prefill_params.h"
#include "kernels/cuda/prefill_row_tile.h"

namespace tauserve::cuda {

inline constexpr int kDensePages =
    32768;  // pages whose emptiness is remembered; the rest is always read
inline constexpr int kMaxDensePasses = 40;

// What a row tile needs next, and what a page was sent for.
enum class Pass : int32_t { kOutput = 0, kSum = 1, kHalf = 2, kSample = 3, kMaximum = 4 };

// The first passes read one page in kSampleEvery, then every other one, and look for the threshold at which these have
// their share of the weight: a start from which one pass over all pages, rarely two, gives the threshold.
inline constexpr int kSampleEvery = 8;
inline constexpr int kFewestSampledPages = 8;
inline constexpr float kSampleTolerance = 0.1f;  // of the norm
inline constexpr int kMaxSamplePasses = 3;

// Pages from one that a pass reads to the next.
__device__ __forceinline__ int StrideOf(Pass pass) {
  return pass == Pass::kSample ? kSampleEvery : pass == Pass::kHalf ? 2 : 1;
}

// A stage's message: the pages that it holds, or a new block, or an end.
struct DenseMessage {
  static constexpr int kNewBlock = -1, kEnd = -2, kPassEnd = -3;
  static constexpr int kNoPage = -1;
  int32_t page;    // >= 0, or what else the message says
  int32_t second;  // page >= 0, or kNoPage
  Pass pass;
  int32_t index;  // of a new block
};

template <int kDim, int kWarpgroups>
struct DenseShape {
  static constexpr int kChunks = (kDim + 63) / 64;
  static constexpr int kPageBytes = kPageTokens * 128 * kChunks;  // of keys, and as much of values
  static constexpr int kStagePages = kChunks == 4 ? 1 : 2;
  static constexpr int kStages = kChunks == 1 ? 4 : 2;
  static constexpr int kKeyBytes = kStagePages * kPageBytes;  // of a stage; its values follow
  static constexpr int kRows = kTileRows * kWarpgroups;
  static constexpr int kThreads = 128 * (kWarpgroups + 1);
  static constexpr int kQueryBytes = kRows * kDim * 2;
  static constexpr int kBiasBytes = kStagePages * kPageTokens * 16 * 2;
  static constexpr int kControlBytes = 1024;
  static constexpr int kBitmapBytes = kDensePages / 8;
  static constexpr int kSharedBytes = 1024 + kStages * 2 * kKeyBytes + kQueryBytes + kBiasBytes +
                                      kControlBytes + (1 + kWarpgroups) * kBitmapBytes;
  static_assert(kSharedBytes <= 232448);
};

template <int kStages, int kWarpgroups>
struct DenseControl {
  DenseMessage message[kStages];
  uint64_t full[kStages];
  uint64_t empty[kStages];
  uint64_t votes;  // a pass's end: what the row tiles need
  uint64_t scrub;  // values of a page with unused slots
  Pass need[kWarpgroups * 4];
  int32_t lowered;  // a floor went down after a pass: pages without weight may have some now
};

template <typename Element, int kDim, int kWarpgroups>
struct DenseProducer {
  using Shape = DenseShape<kDim, kWarpgroups>;
  using Control = DenseControl<Shape::kStages, kWarpgroups>;

  const PrefillParams<Element>& p;
  const CUtensorMap* keys;
  const CUtensorMap* values;
  Control& control;
  char* stages;
  uint32_t* live;  // bitmap of pages that some row tile has weight in
  int lane;
  int stage = 0;
  uint32_t parity = 1;
  uint32_t votes_parity = 0, scrub_parity = 0;

  // The functions below run on the whole warp.
  __device__ __forceinline__ void Advance() {
    if (++stage == Shape::kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
  __device__ __forceinline__ void Send(int kind, Pass pass, int index) {
    BarrierWait(SharedAddress(&control.empty[stage]), parity);
    if (lane == 0) {
      control.message[stage] = {kind, DenseMessage::kNoPage, pass, index};
      BarrierArrive(SharedAddress(&control.full[stage]));
    }
    __syncwarp();
    Advance();
  }
  // A page to its place in a stage: the columns' chunks one behind the other, in each the stage's pages.
  __device__ __forceinline__ void Copy(const CUtensorMap* map, char* to, int place,
                                       uint32_t barrier, int row) {
    for (int c = 0; c < Shape::kChunks; c++) {
      CopyBox(SharedAddress(to) + (c * Shape::kStagePages + place) * (kPageTokens * 128), map,
              barrier, c * 64, row);
    }
  }
  // A stage of one page or two; only the block's last page can have unused slots.
  __device__ __forceinline__ void SendPages(int page, int second, Pass pass, const Slice& slice,
                                            int kv_head, int total) {
    BarrierWait(SharedAddress(&control.empty[stage]), parity);
    char* to = stages + stage * 2 * Shape::kKeyBytes;
    const uint32_t full = SharedAddress(&control.full[stage]);
    const bool with_values = pass == Pass::kOutput;
    const bool both = Shape::kStagePages == 2 && second >= 0;
    const int32_t* ids = p.args.page_table + slice.first_page;
    const int row = (ids[page] * p.args.num_kv_heads + kv_head) * kPageTokens;
    const int second_row = both ? (ids[second] * p.args.num_kv_heads + kv_head) * kPageTokens : 0;
    const int last = both ? second : page;
    const bool scrub = with_values && (last + 1) * kPageTokens > total;
    if (scrub)
      Scrub(to + Shape::kKeyBytes, both, both ? second_row : row, total - last * kPageTokens);
    if (lane == 0) {
      control.message[stage] = {page, both ? second : DenseMessage::kNoPage, pass, 0};
      const bool values_of_first = with_values && (both || !scrub);
      const bool values_of_second = with_values && both && !scrub;
      BarrierArriveExpect(full,
                          (1 + both + values_of_first + values_of_second) * Shape::kPageBytes);
      Copy(keys, to, 0, full, row);
      if (both) Copy(keys, to, 1, full, second_row);
      if (values_of_first) Copy(values, to + Shape::kKeyBytes, 0, full, row);
      if (values_of_second) Copy(values, to + Shape::kKeyBytes, 1, full, second_row);
    }
    __syncwarp();
    Advance();
  }
  // A page's values, unused slots as zeros: weight 0 times NaN would be NaN.
  __device__ __forceinline__ void Scrub(char* to, int place, int row, int used_slots) {
    const uint32_t barrier = SharedAddress(&control.scrub);
    if (lane == 0) {
      BarrierArriveExpect(barrier, Shape::kPageBytes);
      Copy(values, to, place, barrier, row);
    }
    BarrierWait(barrier, scrub_parity);
    scrub_parity ^= 1;
    for (int c = 0; c < Shape::kChunks; c++) {
      uint4* values_of =
          reinterpret_cast<uint4*>(to + (c * Shape::kStagePages + place) * (kPageTokens * 128));
      for (int i = used_slots * 8 + lane; i < kPageTokens * 8; i += 32) {
        values_of[i] = make_uint4(0, 0, 0, 0);
      }
    }
    AsyncProxyFence();
    __syncwarp();
  }

  __device__ void Run() {
    for (;;) {
      int index = 0;
      if (lane == 0) {
        // No tile left to this kernel: no block is looked at.
        index = p.counters->dense_tiles == 0 ? p.num_blocks
                                             : atomicAdd(&p.counters->next_dense_block, 1);
      }
      index = Uniform(index);
      if (index >= p.num_blocks) break;
      if (p.dense_mask[index] != 0) RunBlock(index);
    }
    Send(DenseMessage::kEnd, Pass::kOutput, 0);
  }

  __device__ void RunBlock(int index) {
    const Block block = BlockAt(index, p.args.slices, p.args.num_slices, p.blocks_per_head,
                                p.args.num_kv_heads, p.head_group, p.group, Shape::kRows);
    const Slice slice = p.args.slices[block.slice];
    const int total = slice.context_tokens + slice.num_tokens;
    const int low = slice.context_tokens + block.first_row / p.group;
    const int high = slice.context_tokens +
                     min((block.first_row + Shape::kRows - 1) / p.group, slice.num_tokens - 1);
    const bool causal = p.args.causal;
    const int first = VisibleKeys(low, total, causal, p.args.sliding_window).begin / kPageTokens;
    const int last =
        (VisibleKeys(high, total, causal, p.args.sliding_window).end - 1) / kPageTokens;
    for (int i = lane; i < kDensePages / 32; i += 32) live[i] = 0;
    if (lane == 0) control.lowered = 0;
    __syncwarp();
    Send(DenseMessage::kNewBlock, Pass::kOutput, index);
    bool summed = false;
    int read = 0;
    for (Pass pass = Pass::kMaximum; pass != Pass::kOutput;) {
      BarrierWait(SharedAddress(&control.votes), votes_parity);
      votes_parity ^= 1;
      pass = Pass::kOutput;
      for (int w = 0; w < kWarpgroups * 4; w++) pass = max(pass, control.need[w]);
      summed &= *const_cast<volatile int32_t*>(&control.lowered) == 0;
      const int step = StrideOf(pass);
      int waiting = DenseMessage::kNoPage;  // for a second page
      for (int page = first; page <= last; page += step) {
        const int bit = page - first;
        if (summed && pass != Pass::kMaximum && bit < kDensePages &&
            !(live[bit / 32] >> bit % 32 & 1))
          continue;
        read++;
        if (Shape::kStagePages == 1) {
          SendPages(page, DenseMessage::kNoPage, pass, slice, block.kv_head, total);
        } else if (waiting < 0) {
          waiting = page;
        } else {
          SendPages(waiting, page, pass, slice, block.kv_head, total);
          waiting = DenseMessage::kNoPage;
        }
      }
      if (waiting >= 0) {
        SendPages(waiting, DenseMessage::kNoPage, pass, slice, block.kv_head, total);
      }
      summed |= pass == Pass::kSum;
      Send(DenseMessage::kPassEnd, pass, 0);
    }
    if (p.Stats() && lane == 0) {
      AddTo(&p.Stats()[block.slice].kv_bytes_read,
            static_cast<int64_t>(read) * kPageTokens * kDim * 2);
    }
  }
  static __device__ __forceinline__ Pass max(Pass a, Pass b) {
    return static_cast<int>(a) > static_cast<int>(b) ? a : b;
  }
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_PREFILL_DENSE_H_
