// Softmax attention of one task (alpha = 1): the usual running rescale, over the same pages with the same microkernel.
// Compiled once for each instruction set; see simd.h.
#ifndef TAUSERVE_KERNELS_CPU_FLASH_BLOCK_H_
#define TAUSERVE_KERNELS_CPU_FLASH_BLOCK_H_

#include "kernels/cpu/gather.h"
#include "kernels/cpu/search.h"

namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE {

// Scores of one page for a tile become weights relative to the running maximum; the rows' sums and outputs are rescaled
// where it rose. row.factor is scale * log2(e) here.
template <DataType kType, int R>
inline void FlashTile(const Block& b, Workspace& w, int tile, int page, float* max, float* sum) {
  const LayerKv& kv = b.call->kv;
  const RowState* rows = w.rows + tile * kTileRows;
  const bool masked = NeedsMask(rows, page);
  const PageId id = b.task->slice->pages[page];
  alignas(64) float p[R][kPageTokens];
  for (int part = 0; part < kPageParts; part++) {
    const int first_key = page * kPageTokens + part * kTileKeys;
    Tile<R> acc;
    StartTile<R>(rows, first_key, acc);
    ScoreTile<kType, R>(w, tile * kTileRows, kv.keys(id, b.task->kv_head), kv.head_dim, part, acc);
    if (masked) MaskTile<R>(rows, first_key, acc);
    TAUSERVE_TILE_ROWS {
      TAUSERVE_TILE_VECTORS Store(&p[r][part * kTileKeys + v * kLanes], acc[r][v]);
    }
  }
  float* out = w.accumulator + int64_t{tile} * kTileRows * kv.head_dim;
  for (int r = 0; r < R; r++) {
    F top = Load(p[r]);
    for (int i = kLanes; i < kPageTokens; i += kLanes) top = Max(top, Load(p[r] + i));
    const float t = ReduceMax(top) * rows[r].factor;
    if (t > max[r]) {
      const float rescale = Exp2(Set1(max[r] - t))[0];
      for (int d = 0; d < kv.head_dim; d += kLanes) {
        Store(out + r * kv.head_dim + d, Load(out + r * kv.head_dim + d) * rescale);
      }
      sum[r] *= rescale;
      max[r] = t;
    }
    F total{};
    for (int i = 0; i < kPageTokens; i += kLanes) {
      // A row that has seen no key yet has max -3e38 and scores of -infinity: weight 0.
      const F e = Exp2(Fma(Load(p[r] + i), Set1(rows[r].factor), Set1(-max[r])));
      Store(p[r] + i, Select(Greater(Load(p[r] + i), Set1(-3e38f)), e, F{}));
      total += Load(p[r] + i);
    }
    sum[r] += ReduceAdd(total);
  }
  const int visible = NewestPosition(rows) + 1 - page * kPageTokens;
  AddPageValues<kType, R>(p[0], kPageTokens, visible < kPageTokens ? visible : kPageTokens,
                          kv.values(id, b.task->kv_head), kv.head_dim, out);
}

template <DataType kType>
inline void FlashBlock(const Block& b, Workspace& w, AttentionStats& stats) {
  const LayerKv& kv = b.call->kv;
  float max[kPaddedRows], sum[kPaddedRows];
  for (int r = 0; r < kPaddedRows; r++) {
    max[r] = -3e38f;
    sum[r] = 0;
    w.floor[r] = -3e38f;
  }
  for (int64_t i = 0; i < int64_t{kPaddedRows} * kv.head_dim; i++) w.accumulator[i] = 0;
  for (int page = b.last_page; page >= b.first_page; page--) {
    for (int tile = 0; tile < b.tiles; tile++) {
      bool live = false;
      for (int r = tile * kTileRows; r < (tile + 1) * kTileRows && r < b.rows; r++) {
        const int visible = VisibleKeys(w.rows[r], page);
        stats.keys_scored += visible;
        live |= visible > 0;
      }
      if (!live) continue;
      float* m = max + tile * kTileRows;
      float* s = sum + tile * kTileRows;
      if (b.rows - tile * kTileRows <= 2) {
        FlashTile<kType, 2>(b, w, tile, page, m, s);
      } else {
        FlashTile<kType, kTileRows>(b, w, tile, page, m, s);
      }
    }
  }
  for (int r = 0; r < b.rows; r++) {
    float* out = w.accumulator + int64_t{r} * kv.head_dim;
    const F normalize = Set1(1 / sum[r]);
    for (int d = 0; d < kv.head_dim; d += kLanes) Store(out + d, Load(out + d) * normalize);
    for (int page = b.first_page; page <= b.last_page; page++) {
      stats.support += VisibleKeys(w.rows[r], page);
    }
  }
  const int64_t pages = b.last_page - b.first_page + 1;
  stats.pages_read += pages;
  stats.kv_bytes_read += 2 * pages * kv.block_bytes();
  stats.blocks_scored += pages * (b.rows / b.tokens);
  stats.blocks_attended += pages * (b.rows / b.tokens);
}

}  // namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE

#endif  // TAUSERVE_KERNELS_CPU_FLASH_BLOCK_H_
