// The keys that a block of one head's rows scores before the search, so that its floors are high from the start: the
// pages that some rows see in part, the oldest page (attention sinks), and what the rows of the block before supported,
// for adjacent rows share their supports. An order of work only: the search finds whatever is missing here.
// Compiled once for each instruction set; see simd.h.
#ifndef TAUSERVE_KERNELS_CPU_DENSE_COLUMNS_H_
#define TAUSERVE_KERNELS_CPU_DENSE_COLUMNS_H_

#include "kernels/cpu/search.h"

namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE {

// A page with more guessed keys is scored whole: that takes no packing of single keys and no search.
inline constexpr int kWholePageKeys = 40;

inline bool IsWhole(const DenseColumns& c, int page) {
  if (c.pages == 0 || c.taken[page] != ~uint64_t{0}) return false;
  for (int p = 0; p < c.pages; p++) {
    if (c.page[p] == page) return true;
  }
  return false;  // all its keys were guessed, one by one
}

inline void AddPage(DenseColumns& c, int page) {
  if (IsWhole(c, page)) return;
  c.taken[page] = ~uint64_t{0};
  c.page[c.pages++] = page;
}

// Chooses the columns of a block. At most kMaxColumns - 64 * pages single keys are taken.
inline void ChooseColumns(const Block& b, Workspace& w) {
  DenseColumns& c = w.columns;
  c.pages = 0;
  for (int page = 0; page <= b.last_page; page++) c.taken[page] = 0;
  const int oldest = w.rows[0].first_key, newest = w.rows[b.rows - 1].first_key;
  for (int page = b.last_page; page >= w.rows[0].position / kPageTokens; page--) AddPage(c, page);
  if (!b.biased) {
    // Where a window begins: no more pages than its rows.
    for (int page = oldest / kPageTokens; page <= newest / kPageTokens; page++) AddPage(c, page);
    for (int i = 0; i < w.guess_count; i++) {
      const int key = w.guess[i];
      if (key >= newest) c.taken[key / kPageTokens] |= uint64_t{1} << key % kPageTokens;
    }
    for (int page = newest / kPageTokens; page <= b.last_page; page++) {
      if (c.pages == kMaxColumns / kPageTokens / 2) break;
      if (__builtin_popcountll(c.taken[page]) >= kWholePageKeys) AddPage(c, page);
    }
  }
  c.count = 0;
  for (int p = 0; p < c.pages; p++) {
    for (int i = 0; i < kPageTokens; i++) c.key[c.count++] = c.page[p] * kPageTokens + i;
  }
  if (b.biased) return;
  for (int page = newest / kPageTokens; page <= b.last_page; page++) {
    if (IsWhole(c, page)) continue;
    for (uint64_t bits = c.taken[page]; bits; bits &= bits - 1) {
      if (c.count == kMaxColumns) {
        c.taken[page] &= ~bits;  // no room: left to the search
        break;
      }
      c.key[c.count++] = page * kPageTokens + __builtin_ctzll(bits);
    }
  }
}

// Raw scores of all rows in columns [column, column + 64), whose keys are in the tile, as far as rows see the page.
template <DataType kType>
inline void ScoreColumns(const Block& b, Workspace& w, int column, int page, bool single_keys) {
  for (int tile = 0; tile < b.tiles; tile++) {
    constexpr int R = kTileRows;
    const int row = tile * R;
    const RowState* rows = w.rows + row;
    float* to = w.columns.row(row) + column;
    if (!single_keys && rows[R - 1].position < page * kPageTokens) {
      TAUSERVE_TILE_ROWS {
        for (int i = 0; i < kPageTokens; i += kLanes) {
          Store(to + r * kColumnStride + i, Set1(-__builtin_inff()));
        }
      }
      continue;
    }
    const bool masked = !single_keys && NeedsMask(rows, page);
    ScorePage<kType, R>(b, w, row, page, masked, to, kColumnStride);
  }
}

// The rows of the single keys in columns [column, column + 64), the last one repeated where there are fewer. Returns how
// many there are.
inline int ColumnRows(const Block& b, const DenseColumns& c, int column, bool values,
                      const std::byte** row) {
  const int n = c.count - column < kPageTokens ? c.count - column : kPageTokens;
  for (int i = 0; i < kPageTokens; i++) {
    const int key = c.key[column + (i < n ? i : n - 1)];
    row[i] = values ? ValueRow(*b.call, *b.task, key) : KeyRow(*b.call, *b.task, key);
  }
  return n;
}

// A row's maximum and floor from its columns: steps on the norm from `guess`, the gap of a row like it, for from wherever
// such a step starts it ends right of the root. Returns what it came to.
inline float FloorFromColumns(Workspace& w, int r, float guess) {
  RowState& row = w.rows[r];
  const float* score = w.columns.row(r);
  F max = Set1(-__builtin_inff());
  for (int i = 0; i < w.columns.padded(); i += kLanes) max = Max(Load(score + i), max);
  row.column_max = ReduceMax(max);
  RaiseMax(row, w.q.floor[r], row.column_max);
  if (row.max == -__builtin_inff()) return guess;
  const WeightFunction f = entmax::MakeWeightFunction(row.alpha);
  const RowScores scores = ScoresOf(w, r);
  float u = guess;
  for (int step = 0; step < 3; step++) {
    const PowerSums sums = SumsAt(f, scores, u);
    u = Clamp(entmax::NormNewton(f, sums, u), 0, 1);
    if (sums.s0 > 0.8f && sums.s0 < 1.3f) break;
  }
  if (!(u > 0)) return 1;  // not a number
  RaiseFloorTo(row, w.q.floor[r], u);
  return u;
}

// Scores the columns for all rows and raises their floors.
template <DataType kType>
inline void SearchColumns(const Block& b, Workspace& w, AttentionStats& stats) {
  const DenseColumns& c = w.columns;
  for (int p = 0; p < c.pages; p++) {
    PackPage<kType>(*b.call, *b.task, c.page[p], w);
    ScoreColumns<kType>(b, w, p * kPageTokens, c.page[p], /*single_keys=*/false);
    LiveTiles(b, w, c.page[p], stats);
  }
  stats.pages_read += c.pages;
  stats.kv_bytes_read += c.pages * b.call->kv.block_bytes();
  for (int column = c.pages * kPageTokens; column < c.count; column += kPageTokens) {
    const std::byte* row[kPageTokens];
    const int n = ColumnRows(b, c, column, /*values=*/false, row);
    PackKeys<kType>(row, b.call->kv.head_dim, w.tile);
    w.tile_page = -1;
    ScoreColumns<kType>(b, w, column, 0, /*single_keys=*/true);
    for (int r = 0; r < b.rows; r++) {
      float* score = w.columns.row(r) + column;
      for (int i = n; i < kPageTokens; i++) score[i] = -__builtin_inff();
    }
    stats.kv_bytes_read += n * b.call->kv.row_bytes();
  }
  float guess = 1;
  for (int r = 0; r < b.rows; r++) guess = FloorFromColumns(w, r, guess);
}

}  // namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE

#endif  // TAUSERVE_KERNELS_CPU_DENSE_COLUMNS_H_
