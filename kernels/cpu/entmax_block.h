// Entmax attention of one task: search, then for each row threshold and gather; rows whose candidates outgrew their
// buffer are finished densely, tile by tile. Compiled once for each instruction set; see simd.h.
#ifndef TAUSERVE_KERNELS_CPU_ENTMAX_BLOCK_H_
#define TAUSERVE_KERNELS_CPU_ENTMAX_BLOCK_H_

#include "kernels/cpu/gather.h"
#include "kernels/cpu/search.h"

namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE {

inline int Log2Bucket(int64_t support) {
  int b = 0;
  while (b < AttentionStats::kSupportBuckets - 1 && support > int64_t{1} << b) b++;
  return b;
}

inline void CountRow(const Gap& gap, int64_t support, AttentionStats& stats) {
  const float residual = __builtin_fabsf(gap.sum - 1);
  stats.support += support;
  stats.entmax_support += support;
  stats.tau_iterations += gap.steps;
  stats.unconverged_rows += !(residual <= 1e-4f);
  if (residual > stats.max_tau_residual) stats.max_tau_residual = residual;
  stats.support_histogram[Log2Bucket(support)]++;
  constexpr int kLast = AttentionStats::kIterationBuckets - 1;
  stats.iteration_histogram[gap.steps < kLast ? gap.steps : kLast]++;
}

inline void MarkPage(uint64_t* attended, int page) {
  attended[page / 64] |= uint64_t{1} << page % 64;
}

inline void FillNan(float* out, int n) {
  for (int d = 0; d < n; d++) out[d] = __builtin_nanf("");
}

// Threshold and gather of a row whose candidates are complete.
template <DataType kType>
inline void FinishRow(const Block& b, Workspace& w, int r, float* out, AttentionStats& stats) {
  RowState& row = w.rows[r];
  const LayerKv& kv = b.call->kv;
  float* score = w.score + int64_t{r} * kCandidates;
  int32_t* key = w.key + int64_t{r} * kCandidates;
  if (row.count == 0) return FillNan(out, kv.head_dim);  // no finite score
  RaiseFloor(row, w.floor[r], score, key);
  for (int i = 0; i < row.count; i += kLanes) {
    Store(score + i, (Load(score + i) - row.max) * row.factor);
  }
  const WeightFunction f = entmax::MakeWeightFunction(row.alpha);
  const Gap gap = SolveGap(f, score, row.count, row.factor * (row.max - w.floor[r]) * (1 + 1e-5f));
  const F normalize = Set1(1 / gap.sum);
  int n = 0;
  for (int i = 0; i < row.count; i += kLanes) {
    const F p = WeightOf(f, Load(score + i) + gap.u) * normalize;
    const Mask m = FirstLanes(row.count - i) & Greater(p, F{});
    n += Compress(m, p, LoadI(key + i), score + n, key + n);
  }
  for (int i = 0; i < n; i++) MarkPage(w.attended, key[i] / kPageTokens);
  for (int d = 0; d < kv.head_dim; d++) out[d] = 0;
  GatherValues<kType>(kv, b.task->slice->pages, b.task->kv_head, score, key, n, out);
  stats.kv_bytes_read += int64_t{n} * kv.head_dim * SizeOf(kType);
  CountRow(gap, n, stats);
}

// All scores of the tile's rows over pages [first_page, last_page] into w.dense, -infinity where not visible.
template <DataType kType>
inline void DenseScores(const Block& b, Workspace& w, int tile, AttentionStats& stats) {
  const LayerKv& kv = b.call->kv;
  const RowState* rows = w.rows + tile * kTileRows;
  for (int page = b.first_page; page <= b.last_page; page++) {
    const std::byte* keys = kv.keys(b.task->slice->pages[page], b.task->kv_head);
    const bool masked = NeedsMask(rows, page);
    for (int part = 0; part < kPageParts; part++) {
      const int first_key = page * kPageTokens + part * kTileKeys;
      constexpr int R = kTileRows;
      Tile<R> acc;
      StartTile<R>(rows, first_key, acc);
      ScoreTile<kType, R>(w, tile * kTileRows, keys, kv.head_dim, part, acc);
      if (masked) MaskTile<R>(rows, first_key, acc);
      float* to = w.dense + first_key - b.first_page * kPageTokens;
      TAUSERVE_TILE_ROWS {
        TAUSERVE_TILE_VECTORS Store(to + r * w.max_keys + v * kLanes, acc[r][v]);
      }
    }
  }
  stats.kv_bytes_read += (b.last_page - b.first_page + 1) * kv.block_bytes();
}

// Replaces a dense row's scores by its weights.
inline void DenseWeights(const Block& b, Workspace& w, const RowState& row, float* scores,
                         AttentionStats& stats) {
  const int64_t n = int64_t{b.last_page - b.first_page + 1} * kPageTokens;
  F max = Load(scores);
  for (int64_t i = kLanes; i < n; i += kLanes) max = Max(max, Load(scores + i));
  const float top = ReduceMax(max);
  for (int64_t i = 0; i < n; i += kLanes) Store(scores + i, (Load(scores + i) - top) * row.factor);
  const WeightFunction f = entmax::MakeWeightFunction(row.alpha);
  const Gap gap = SolveGap(f, scores, n, 1);
  const F normalize = Set1(1 / gap.sum);
  int64_t support = 0;
  for (int64_t i = 0; i < n; i += kLanes) {
    const F p = WeightOf(f, Load(scores + i) + gap.u) * normalize;
    Store(scores + i, p);
    const Mask m = Greater(p, F{});
    if (m) MarkPage(w.attended, b.first_page + static_cast<int>(i / kPageTokens));
    support += __builtin_popcount(m);
  }
  CountRow(gap, support, stats);
}

// Finishes the wide rows among `wide` (bits) of a tile: one more product, whatever the support.
template <DataType kType>
inline void FinishWideRows(const Block& b, Workspace& w, int tile, uint32_t wide,
                           AttentionStats& stats) {
  const LayerKv& kv = b.call->kv;
  DenseScores<kType>(b, w, tile, stats);
  for (int r = 0; r < kTileRows; r++) {
    const RowState& row = w.rows[tile * kTileRows + r];
    float* scores = w.dense + r * w.max_keys;
    if (wide >> r & 1) {
      DenseWeights(b, w, row, scores, stats);
      stats.wide_rows++;
    } else {
      const int64_t n = int64_t{b.last_page - b.first_page + 1} * kPageTokens;
      for (int64_t i = 0; i < n; i += kLanes) Store(scores + i, F{});
    }
  }
  float* out = w.accumulator + int64_t{tile} * kTileRows * kv.head_dim;
  const int newest = NewestPosition(w.rows + tile * kTileRows);
  for (int page = b.first_page; page * kPageTokens <= newest; page++) {
    const int first = page * kPageTokens;
    const int slots = newest + 1 - first < kPageTokens ? newest + 1 - first : kPageTokens;
    AddPageValues<kType, kTileRows>(w.dense + first - b.first_page * kPageTokens, w.max_keys, slots,
                                    kv.values(b.task->slice->pages[page], b.task->kv_head),
                                    kv.head_dim, out);
  }
  stats.kv_bytes_read += (b.last_page - b.first_page + 1) * kv.block_bytes();
}

template <DataType kType>
inline void EntmaxBlock(const Block& b, Workspace& w, AttentionStats& stats) {
  const LayerKv& kv = b.call->kv;
  for (int r = 0; r < kPaddedRows; r++) {
    w.rows[r].max = -__builtin_inff();
    w.rows[r].count = 0;
    w.rows[r].next = 32;
    w.rows[r].wide = false;
    w.floor[r] = r < b.rows ? -3e38f : __builtin_inff();
  }
  Search<kType>(b, w, stats);
  const int words = b.last_page / 64 + 1;
  for (int head = 0; head * b.tokens < b.rows; head++) {
    for (int i = 0; i < words; i++) w.attended[i] = 0;
    for (int r = head * b.tokens; r < (head + 1) * b.tokens; r++) {
      float* out = w.accumulator + int64_t{r} * kv.head_dim;
      if (w.rows[r].wide) {
        for (int d = 0; d < kv.head_dim; d++) out[d] = 0;
      } else {
        FinishRow<kType>(b, w, r, out, stats);
      }
    }
    const int first = head * b.tokens, last = first + b.tokens - 1;
    for (int tile = first / kTileRows; tile <= last / kTileRows; tile++) {
      uint32_t wide = 0;
      for (int r = 0; r < kTileRows; r++) {
        const int row = tile * kTileRows + r;
        wide |= uint32_t{row >= first && row <= last && w.rows[row].wide} << r;
      }
      if (wide) FinishWideRows<kType>(b, w, tile, wide, stats);
    }
    for (int i = 0; i < words; i++) stats.blocks_attended += __builtin_popcountll(w.attended[i]);
  }
  stats.rows += b.rows;
}

}  // namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE

#endif  // TAUSERVE_KERNELS_CPU_ENTMAX_BLOCK_H_
