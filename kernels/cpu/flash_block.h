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
  for (int r = 0; r < R; r++) {
    for (int i = 0; i < kPageTokens; i++) {
      const int key = page * kPageTokens + i;
      const bool seen = key <= w.rows[row + r].position && key >= w.rows[row + r].first_key;
      scores[r][i] = seen ? ScoreKey<kType>(b, w, row + r, key) : -__builtin_inff();
    }
  }
}

// Scores become weights relative to the running maximum; the rows' sums and outputs are rescaled where it rose.
// row.factor is scale * log2(e) here.
template <int R>
inline void FlashWeights(const Workspace& w, int row, float (&p)[R][kPageTokens], int head_dim,
                         float* max, float* sum) {
  for (int r = 0; r < R; r++) {
    const float factor = w.rows[row + r].factor;
    F top = Load(p[r]);
    for (int i = kLanes; i < kPageTokens; i += kLanes) top = Max(top, Load(p[r] + i));
    const float t = ReduceMax(top) * factor;
    if (t > max[row + r]) {
      const float rescale = Exp2(Set1(max[row + r] - t))[0];
      float* out = w.accumulator + int64_t{row + r} * head_dim;
      for (int d = 0; d < head_dim; d += kLanes) Store(out + d, Load(out + d) * rescale);
      sum[row + r] *= rescale;
      max[row + r] = t;
    }
    F total{};
    for (int i = 0; i < kPageTokens; i += kLanes) {
      // A row that has seen no key yet has max -3e38 and scores of -infinity: weight 0.
      const F x = Load(p[r] + i);
      const F e = Exp2(Fma(x, Set1(factor), Set1(-max[row + r])));
      const F weight = Select(Greater(x, Set1(-3e38f)), e, F{});
      Store(p[r] + i, weight);
      total += weight;
    }
    sum[row + r] += ReduceAdd(total);
  }
}

// `values`: the page's values as floats; null: they are read as they lie.
template <DataType kType, int R>
inline void FlashTile(const Block& b, Workspace& w, int row, int page, int slots,
                      const float* values, float* max, float* sum) {
  const int head_dim = b.call->kv.head_dim;
  alignas(64) float p[R][kPageTokens];
  if (b.prefill || kPacksFast) {
    ScorePage<kType, R>(b, w, row, page, NeedsMask(w.rows + row, page), p[0], kPageTokens);
  } else {
    FlashScoresByKey<kType, R>(b, w, row, page, p);
  }
  FlashWeights<R>(w, row, p, head_dim, max, sum);
  float* out = w.accumulator + int64_t{row} * head_dim;
  if (values) {
    AddTileValues<R>(p[0], kPageTokens, slots, values, head_dim, out);
  } else {
    const std::byte* there = b.call->kv.values(b.task->slice->pages[page], b.task->kv_head);
    AddTileValues<kType, R>(p[0], kPageTokens, slots, there, head_dim, out);
  }
}

template <DataType kType>
inline void FlashBlock(const Block& b, Workspace& w, AttentionStats& stats) {
  const LayerKv& kv = b.call->kv;
  float max[kPaddedRows], sum[kPaddedRows];
  for (int r = 0; r < b.tiles * kTileRows; r++) {
    max[r] = -3e38f;
    sum[r] = 0;
    w.q.floor[r] = -3e38f;
  }
  for (int64_t i = 0; i < int64_t{b.tiles} * kTileRows * kv.head_dim; i++) w.accumulator[i] = 0;
  for (int page = b.last_page; page >= b.first_page; page--) {
    const int slots = UsedSlots(b, w, page);
    if (b.prefill || kPacksFast) PackPage<kType>(*b.call, *b.task, page, w);
    const float* values =
        b.tiles > 2 ? PageValues<kType>(*b.call, *b.task, page, slots, w) : nullptr;
    for (int tile = 0; tile < b.tiles; tile++) {
      const int row = tile * kTileRows;
      bool live = false;
      for (int r = row; r < row + kTileRows && r < b.rows; r++) {
        const int visible = VisibleKeys(w.rows[r], page);
        stats.keys_scored += visible;
        live |= visible > 0;
      }
      if (!live) continue;
      const int rows = b.rows - row;
      if (rows <= 2) {
        FlashTile<kType, 2>(b, w, row, page, slots, values, max, sum);
      } else if (rows <= 4) {
        FlashTile<kType, 4>(b, w, row, page, slots, values, max, sum);
      } else {
        FlashTile<kType, kTileRows>(b, w, row, page, slots, values, max, sum);
      }
    }
  }
  for (int r = 0; r < b.rows; r++) {
    float* out = w.accumulator + int64_t{r} * kv.head_dim;
    const F normalize = Set1(1 / sum[r]);
    for (int d = 0; d < kv.head_dim; d += kLanes) Store(out + d, Load(out + d) * normalize);
  }
  stats.support += b.visible_keys;
  const int64_t pages = b.last_page - b.first_page + 1;
  stats.pages_read += pages;
  stats.kv_bytes_read += 2 * pages * kv.block_bytes();
}

}  // namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE

#endif  // TAUSERVE_KERNELS_CPU_FLASH_BLOCK_H_
