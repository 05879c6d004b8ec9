// Search: streams the pages that a block of query rows may see, newest first, and keeps for each row the keys whose
// score is above its floor. A tile row with nothing above its floor costs one comparison and is forgotten.
// Compiled once for each instruction set; see simd.h.
#ifndef TAUSERVE_KERNELS_CPU_SEARCH_H_
#define TAUSERVE_KERNELS_CPU_SEARCH_H_

#include "kernels/cpu/row_threshold.h"
#include "kernels/cpu/score_tile.h"

namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE {

// A block's rows are head-major: row = (head - head_begin) * tokens + (token - token_begin).
struct Block {
  const AttentionCall* call;
  const AttentionTask* task;
  int rows;
  int tiles;
  int tokens;      // rows a head
  int first_page;  // pages with a visible key: [first_page, last_page]
  int last_page;
};

inline float Clamp(float x, float lo, float hi) { return x < lo ? lo : x > hi ? hi : x; }

// Raises a row's floor from its candidates and drops those at or below it. Two Newton steps on the norm, from the right
// of the candidates' root, so the gap stays an upper bound: the floor never passes tau.
inline void RaiseFloor(RowState& row, float& floor, float* score, int32_t* key) {
  const WeightFunction f = entmax::MakeWeightFunction(row.alpha);
  float u = Clamp(row.factor * (row.max - floor), 0, 1);
  if (!(u > 0)) u = 1;
  alignas(64) float y[kCandidates + kLanes];
  for (int i = 0; i < row.count; i += kLanes) {
    Store(y + i, (Load(score + i) - row.max) * row.factor);
  }
  for (int step = 0; step < 2; step++) {
    const PowerSums sums = SumsAt(f, y, row.count, u);
    if (!(sums.s0 > 1)) break;
    const float next = entmax::NormNewton(f, sums, u);
    if (!(next < u)) break;
    u = next;
  }
  u = u * (1 + 1e-5f) + 1e-6f;
  // A hair below, so that the rounding of raw scores can't lose a key.
  const float raised = row.max - u / row.factor - 2e-6f * __builtin_fabsf(row.max);
  if (raised > floor) floor = raised;
  const F bound = Set1(floor);
  int kept = 0;
  for (int i = 0; i < row.count; i += kLanes) {
    const F x = Load(score + i);
    const I id = LoadI(key + i);
    kept +=
        Compress(FirstLanes(row.count - i) & Greater(x, bound), x, id, score + kept, key + kept);
  }
  row.count = kept;
  row.next = kept < 16 ? 32 : 2 * kept;
  if (row.next > kCandidates - kPageTokens) row.next = kCandidates - kPageTokens;
}

// Adds what is above the floor among `score[0, kTileKeys)`, keys first_key.., to a row's candidates.
inline void TakeHits(Workspace& w, int r, const float* tile_score, int first_key) {
  RowState& row = w.rows[r];
  float* score = w.score + int64_t{r} * kCandidates;
  int32_t* key = w.key + int64_t{r} * kCandidates;
  F max = Load(tile_score);
  for (int v = 1; v < kTileVectors; v++) max = Max(max, Load(tile_score + v * kLanes));
  const float top = ReduceMax(max);
  if (top > row.max) {
    row.max = top;
    const float floor = top - 1.000001f / row.factor - 2e-6f * __builtin_fabsf(top);
    if (floor > w.floor[r]) w.floor[r] = floor;
  }
  const F bound = Set1(w.floor[r]);
  for (int v = 0; v < kTileVectors; v++) {
    const F x = Load(tile_score + v * kLanes);
    const Mask above = Greater(x, bound);
    if (above) {
      row.count +=
          Compress(above, x, Iota() + (first_key + v * kLanes), score + row.count, key + row.count);
    }
  }
  if (row.count < row.next) return;
  RaiseFloor(row, w.floor[r], score, key);
  if (row.count >=
      kCandidates -
          kPageTokens) {  // no room for a page's worth of hits: the dense path takes this row
    row.wide = true;
    w.floor[r] = __builtin_inff();
  }
}

// Rows of the block, as bits, that may have a key with weight in `page`.
inline uint64_t LiveRows(const Block& b, const Workspace& w, int page) {
  const int first = page * kPageTokens, last = first + kPageTokens - 1;
  uint64_t live = 0;
  for (int head = 0; head * b.tokens < b.rows; head++) {
    const int r0 = head * b.tokens, r1 = r0 + b.tokens;
    const RowState& newest = w.rows[r1 - 1];
    if (newest.position < first || w.rows[r0].first_key > last) continue;
    if (w.rows[r0].slope > 0) {
      // No score in the page is above |q| * |k| + slope * (last - position).
      const float norm = b.call->kv.norm(b.task->slice->pages[page], b.task->kv_head);
      bool above = false;
      for (int r = r0; r < r1 && !above; r++) {
        const int distance = last < w.rows[r].position ? last - w.rows[r].position : 0;
        const float bound = w.rows[r].q_norm * norm + w.rows[r].slope * distance;
        above = !(bound + 1e-4f * __builtin_fabsf(bound) <= w.floor[r]);
      }
      if (!above) continue;
    }
    const uint64_t bits = b.tokens == 64 ? ~uint64_t{0} : (uint64_t{1} << b.tokens) - 1;
    live |= bits << r0;
  }
  return live;
}

// Whether some of the tile's rows see only a part of the page.
inline bool NeedsMask(const RowState* rows, int page) {
  const int first = page * kPageTokens, last = first + kPageTokens - 1;
  for (int r = 0; r < kTileRows; r++) {
    if (rows[r].position < last || rows[r].first_key > first) return true;
  }
  return false;
}

template <DataType kType, int R>
inline void SearchTile(Workspace& w, int tile, const std::byte* keys, int head_dim, int page) {
  const int row = tile * kTileRows;
  const RowState* rows = w.rows + row;
  const bool masked = NeedsMask(rows, page);
  alignas(64) float scores[R][kTileKeys];
  for (int part = 0; part < kPageParts; part++) {
    const int first_key = page * kPageTokens + part * kTileKeys;
    Tile<R> acc;
    StartTile<R>(rows, first_key, acc);
    ScoreTile<kType, R>(w, row, keys, head_dim, part, acc);
    if (masked) MaskTile<R>(rows, first_key, acc);
    uint32_t hit = 0;
    TAUSERVE_TILE_ROWS {
      F max = acc[r][0];
      _Pragma("GCC unroll 4") for (int v = 1; v < kTileVectors; v++) max = Max(max, acc[r][v]);
      hit |= uint32_t{Greater(max, Set1(w.floor[row + r])) != 0} << r;
    }
    if (__builtin_expect(hit == 0, 1)) continue;
    TAUSERVE_TILE_ROWS { TAUSERVE_TILE_VECTORS Store(&scores[r][v * kLanes], acc[r][v]); }
    for (; hit; hit &= hit - 1) {
      const int r = __builtin_ctz(hit);
      TakeHits(w, row + r, scores[r], first_key);
    }
  }
}

template <DataType kType>
inline void SearchPage(const Block& b, Workspace& w, int page, AttentionStats& stats) {
  const uint64_t live = LiveRows(b, w, page);
  if (live == 0) return;
  const LayerKv& kv = b.call->kv;
  const std::byte* keys = kv.keys(b.task->slice->pages[page], b.task->kv_head);
  stats.pages_read++;
  stats.kv_bytes_read += kv.block_bytes();
  for (int tile = 0; tile < b.tiles; tile++) {
    uint64_t bits = live >> (tile * kTileRows) & ((1u << kTileRows) - 1);
    if (bits == 0) continue;
    if (b.rows - tile * kTileRows <= 2) {
      SearchTile<kType, 2>(w, tile, keys, kv.head_dim, page);
    } else {
      SearchTile<kType, kTileRows>(w, tile, keys, kv.head_dim, page);
    }
    for (; bits; bits &= bits - 1) {
      stats.keys_scored += VisibleKeys(w.rows[tile * kTileRows + __builtin_ctzll(bits)], page);
    }
  }
  for (int r = 0; r < b.rows; r += b.tokens) stats.blocks_scored += live >> r & 1;
}

// The diagonal first, then the oldest page (attention sinks), then from new to old: the floors are high early.
template <DataType kType>
inline void Search(const Block& b, Workspace& w, AttentionStats& stats) {
  SearchPage<kType>(b, w, b.last_page, stats);
  if (b.first_page < b.last_page) SearchPage<kType>(b, w, b.first_page, stats);
  for (int page = b.last_page - 1; page > b.first_page; page--)
    SearchPage<kType>(b, w, page, stats);
}

}  // namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE

#endif  // TAUSERVE_KERNELS_CPU_SEARCH_H_
