// Softmax attention of a block of rows (alpha = 1): the usual running rescale, over the same pages with the same
// microkernel. Compiled once for each instruction set; see simd.h.
#ifndef TAUSERVE_KERNELS_CPU_FLASH_BLOCK_H_
#define TAUSERVE_KERNELS_CPU_FLASH_BLOCK_H_

#include "kernels/cpu/gather.h"
#include "kernels/cpu/search.h"

namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE {

// Raw scores of rows [row, row + R) with the keys of a page, -infinity where not visible.
template <DataType kType, int R>
inline void FlashScores(const Block& b, const Workspace& w, int row, int page,
                        float (&scores)[R][kPageTokens]) {
  const RowState* rows = w.rows + row;
  const bool masked = NeedsMask(rows, page);
  for (int part = 0; part < kPageParts; part++) {
    const int first_key = page * kPageTokens + part * kTileKeys;
    Tile<R> acc;
    StartTile<R>(w.q, row, first_key, acc);
    ScoreTile<kType, R>(w.q, row, w.tile, b.call->kv.head_dim, part, acc);
    if (masked) MaskTile<R>(rows, first_key, acc);
    TAUSERVE_TILE_ROWS {
      TAUSERVE_TILE_VECTORS Store(&scores[r][part * kTileKeys + v * kLanes], acc[r][v]);
    }
  }
}

// The same for a few rows, key by key.
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
    FlashScores<kType, R>(b, w, row, page, p);
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
  const int newest = w.rows[b.tokens - 1].position;
  for (int page = b.last_page; page >= b.first_page; page--) {
    const int first = page * kPageTokens;
    const int slots = newest + 1 - first < kPageTokens ? newest + 1 - first : kPageTokens;
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
    stats.support += w.rows[r].position - w.rows[r].first_key + 1;
  }
  const int64_t pages = b.last_page - b.first_page + 1;
  stats.pages_read += pages;
  stats.kv_bytes_read += 2 * pages * kv.block_bytes();
}

}  // namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE

#endif  // TAUSERVE_KERNELS_CPU_FLASH_BLOCK_H_
