// Softmax attention of a block of rows (alpha = 1): the usual running rescale, over the same pages with the same
// microkernel. Compiled once for each instruction set; see simd.h.
#ifndef TAUSERVE_KERNELS_CPU_FLASH_BLOCK_H_
#define TAUSERVE_KERNELS_CPU_FLASH_BLOCK_H_

#include "kernels/cpu/gather.h"
#include "kernels/cpu/search.h"

namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE {

// Raw scores of a few rows with the keys of a page, one by one; -infinity where not visible.
template <DataType kType, int R>
inline void FlashScoresByKey(const Block& b, const Workspace& w, int row, int page,
                             float (&scores)[R][kPageTokens]) {
  const LayerKv& kv = b.call->kv;
  const int64_t row_bytes = kv.row_bytes();
  const int first = page * kPageTokens;
  const std::byte* keys = kv.keys(b.task->slice->pages[page], b.task->kv_head);
  for (int r = 0; r < R; r++) {
    const RowState& state = w.rows[row + r];
    const float* q = w.q.rows + (row + r) * kv.head_dim;
    const float slope = w.q.slope[row + r];
    const int from = state.first_key > first ? state.first_key - first : 0;
    const int to = state.position - first < kPageTokens ? state.position - first + 1 : kPageTokens;
    for (int i = 0; i < kPageTokens; i += kLanes) {
      Store(scores[r] + i, Set1(-__builtin_inff()));
    }
    for (int i = from; i < to; i++) {
      scores[r][i] = DotKey<kType>(q, keys + i * row_bytes, kv.head_dim) +
                     slope * static_cast<float>(first + i - state.position);
    }
  }
}

// The running state of the block's rows. Their sums stay spread over lanes until the end.
struct FlashRows {
  float max[kPaddedRows];  // of scale * log2(e) * score, so far
  alignas(64) float sum[kPaddedRows][kLanes];
};

// 2^x as precise as it will be multiplied.
template <typename Weight>
TAUSERVE_INLINE F WeightExp2(F x) {
  return std::is_same_v<Weight, uint16_t> ? Exp2Rough(x) : Exp2(x);
}

// Scores become weights relative to the running maximum, in `to`; a row's sum and output are rescaled where it rose.
// row.factor is scale * log2(e) here.
template <int R, typename Weight>
TAUSERVE_INLINE void FlashWeights(const Workspace& w, int row,
                                  const float (&scores)[R][kPageTokens],
                                  Weight (&to)[R][kPageTokens], int head_dim, FlashRows& state) {
  for (int r = 0; r < R; r++) {
    const float* score = scores[r];
    const float factor = w.rows[row + r].factor;
    float& max = state.max[row + r];
    F top = Load(score);
    for (int i = kLanes; i < kPageTokens; i += kLanes) top = Max(top, Load(score + i));
    F sum = Load(state.sum[row + r]);
    if (__builtin_expect(Greater(top * factor, Set1(max)) != 0, 0)) {
      const float risen = ReduceMax(top) * factor;
      const F rescale = Exp2(Set1(max - risen));
      float* out = w.accumulator + int64_t{row + r} * head_dim;
      for (int d = 0; d < head_dim; d += kLanes) Store(out + d, Load(out + d) * rescale);
      sum *= rescale;
      max = risen;
    }
    // Masked scores are -infinity: their weight is zero, also in a row that has seen no key yet (its max is -3e38).
    _Pragma("GCC unroll 16") for (int i = 0; i < kPageTokens; i += kLanes) {
      const F weight = WeightExp2<Weight>(Fma(Load(score + i), Set1(factor), Set1(-max)));
      StoreWeights(to[r] + i, weight);
      sum += weight;
    }
    Store(state.sum[row + r], sum);
  }
}

// Whether the block's scores come from packed pages; for one row that takes longer than key by key.
inline bool Packs(const Block& b) { return b.prefill || (kPacksFast && b.rows > 1); }

// `values`: the page's values, packed for a product; null: they are read as they lie.
template <DataType kType, int R>
inline void FlashTile(const Block& b, Workspace& w, int row, int page, int slots,
                      const void* values, FlashRows& state) {
  const int head_dim = b.call->kv.head_dim;
  alignas(64) float scores[R][kPageTokens];
  if (Packs(b)) {
    ScorePage<kType, R>(b, w, row, page, NeedsMask(w.rows + row, page), scores[0], kPageTokens);
  } else {
    FlashScoresByKey<kType, R>(b, w, row, page, scores);
  }
  float* out = w.accumulator + int64_t{row} * head_dim;
  if (values) {
    alignas(64) Weight<kPaired<kType>> weights[R][kPageTokens];
    FlashWeights<R>(w, row, scores, weights, head_dim, state);
    AddPackedValues<kPaired<kType>, R>(weights[0], kPageTokens, slots, values, head_dim, out);
  } else {
    FlashWeights<R>(w, row, scores, scores, head_dim, state);
    const std::byte* there = b.call->kv.values(b.task->slice->pages[page], b.task->kv_head);
    const ValueRows<kType> rows = {scores[0], kPageTokens, there, head_dim};
    AddTileValues<R>(rows, slots, out);
  }
}

// Whether some row of the tile sees keys of the page.
inline bool SeesPage(const RowState* rows, int page) {
  const int first = page * kPageTokens;
  for (int r = 0; r < kTileRows; r++) {
    if (rows[r].position >= first && rows[r].first_key < first + kPageTokens) return true;
  }
  return false;
}

// Decoding streams through memory: asks for a page's keys and values.
inline void PrefetchPage(const Block& b, int page) {
  const LayerKv& kv = b.call->kv;
  const std::byte* keys = kv.keys(b.task->slice->pages[page], b.task->kv_head);
  for (size_t at = 0; at < 2 * kv.block_bytes(); at += 64) __builtin_prefetch(keys + at, 0, 2);
}

template <DataType kType>
inline void FlashBlock(const Block& b, Workspace& w, AttentionStats& stats) {
  const LayerKv& kv = b.call->kv;
  FlashRows state;
  for (int r = 0; r < b.tiles * kTileRows; r++) {
    state.max[r] = -3e38f;
    Store(state.sum[r], F{});
    w.q.floor[r] = -3e38f;
  }
  for (int64_t i = 0; i < int64_t{b.tiles} * kTileRows * kv.head_dim; i++) w.accumulator[i] = 0;
  for (int page = b.first_page; page <= b.last_page; page++) {
    const int slots = UsedSlots(b, w, page);
    if (!b.prefill && page < b.last_page) PrefetchPage(b, page + 1);
    if (Packs(b)) PackPage<kType>(*b.call, *b.task, page, w);
    const void* values =
        b.tiles > 2 ? PageValues<kType, kPaired<kType>>(*b.call, *b.task, page, slots, w) : nullptr;
    for (int tile = 0; tile < b.tiles; tile++) {
      const int row = tile * kTileRows;
      if (!SeesPage(w.rows + row, page)) continue;
      const int rows = b.rows - row;
      if (rows == 1) {
        FlashTile<kType, 1>(b, w, row, page, slots, values, state);
      } else if (rows <= 2) {
        FlashTile<kType, 2>(b, w, row, page, slots, values, state);
      } else if (rows <= 4) {
        FlashTile<kType, 4>(b, w, row, page, slots, values, state);
      } else {
        FlashTile<kType, kTileRows>(b, w, row, page, slots, values, state);
      }
    }
  }
  for (int r = 0; r < b.rows; r++) {
    float* out = w.accumulator + int64_t{r} * kv.head_dim;
    const float sum = ReduceAdd(Load(state.sum[r]));
    w.rows[r].tau = (state.max[r] + __builtin_log2f(sum)) * 0.693147181f;
    const F normalize = Set1(1 / sum);
    for (int d = 0; d < kv.head_dim; d += kLanes) Store(out + d, Load(out + d) * normalize);
  }
  stats.support += b.visible_keys;
  stats.keys_scored += b.visible_keys;
  const int64_t pages = b.last_page - b.first_page + 1;
  stats.pages_read += pages;
  stats.kv_bytes_read += 2 * pages * kv.block_bytes();
}

}  // namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE

#endif  // TAUSERVE_KERNELS_CPU_FLASH_BLOCK_H_
