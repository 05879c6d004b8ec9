// Search: streams the pages that a block of query rows may see and keeps for each row the keys whose score is above its
// floor. A tile row with nothing above its floor costs one comparison and is forgotten.
//
// Where bytes can be multiplied, a page is searched in its shadow first: with q^ and k^ the values of the bytes,
//     q . k <= q^ . k^ + |q| |k - k^| + |q - q^| |k^|        (Cauchy-Schwarz)
// so that a key whose sum of byte products is not above a whole number, made from the floor and the page's bounds, is
// proven to have weight zero. The others become hits with q^ . k^ less these bounds for a score: floors from scores that
// are too low are too low as well, and still hold. What is left of a row's hits when the search is over is scored exactly.
// Compiled once for each instruction set; see simd.h.
#ifndef TAUSERVE_KERNELS_CPU_SEARCH_H_
#define TAUSERVE_KERNELS_CPU_SEARCH_H_

#include "kernels/cpu/row_threshold.h"
#include "kernels/cpu/score_tile.h"

namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE {

// Rows that are worked on together. Those of several heads are head-major: row = (head - head_begin) * tokens + token.
struct Block {
  const AttentionCall* call;
  const AttentionTask* task;
  int token_begin;  // of the slice
  int rows;
  int tiles;
  int tokens;      // rows a head
  int first_page;  // pages with a visible key: [first_page, last_page]
  int last_page;
  int full_pages;        // of the slice: those have a shadow
  bool biased;           // some row has a slope
  bool prefill;          // one head, packed tiles pay
  int64_t visible_keys;  // summed over rows
  // Blocks of the statistics: 64 queries of a head, or all queries of each head.
  int groups;
  int first_group_rows;  // of one head

  // Its distance bound leaves a prefill block with a bias few pages to score: bytes for its queries don't pay.
  bool scores_few() const { return prefill && biased; }
  int group_of(int row) const {
    if (!prefill) return row / tokens;
    return row < first_group_rows ? 0 : 1 + (row - first_group_rows) / kPageTokens;
  }
};

inline float Clamp(float x, float lo, float hi) { return x < lo ? lo : x > hi ? hi : x; }

// A row's scores so far: its columns and its hits.
inline RowScores ScoresOf(Workspace& w, int r) {
  const RowState& row = w.rows[r];
  float* hits = w.hit_scores(r);
  for (int i = 0; i < 2 * kLanes; i += kLanes) {
    Store(hits + row.count + i, Set1(-__builtin_inff()));
  }
  RowScores scores;
  scores.piece[0] = {w.columns.row(r), w.columns.padded()};
  scores.piece[1] = {hits, (row.count + 2 * kLanes - 1) / (2 * kLanes) * (2 * kLanes)};
  scores.keys = w.columns.count + row.count;
  scores.max = row.max;
  scores.factor = row.factor;
  return scores;
}

// No key of weight is more than 1 / factor below the largest.
TAUSERVE_INLINE void RaiseMax(RowState& row, float& floor, float top) {
  if (!(top > row.max)) return;
  row.max = top;
  const float least = top - 1.000001f / row.factor - 2e-6f * __builtin_fabsf(top);
  if (least > floor) floor = least;
}

// Raises a row's floor to what `u`, an upper bound of its gap, says.
TAUSERVE_INLINE void RaiseFloorTo(const RowState& row, float& floor, float u) {
  u = u * (1 + 1e-5f) + 1e-6f;
  // A hair below, so that the rounding of raw scores can't lose a key.
  const float raised = row.max - u / row.factor - 2e-6f * __builtin_fabsf(row.max);
  if (raised > floor) floor = raised;
}

// Raises a row's floor from its scores so far, which are complete but for what is found later, and drops the hits at or
// below it. Newton steps on the norm from the right of the root, so the gap stays an upper bound: the floor never passes
// tau.
inline void RaiseFloor(Workspace& w, int r) {
  RowState& row = w.rows[r];
  float& floor = w.q.floor[r];
  float* score = w.hit_scores(r);
  int32_t* key = w.hit_keys(r);
  const WeightFunction f = entmax::MakeWeightFunction(row.alpha);
  const RowScores scores = ScoresOf(w, r);
  float u = Clamp(row.factor * (row.max - floor), 0, 1);
  if (!(u > 0)) u = 1;
  for (int step = 0; step < 2; step++) {
    const PowerSums sums = SumsAt(f, scores, u);
    if (!(sums.s0 > 1)) break;
    const float next = entmax::NormNewton(f, sums, u);
    if (!(next < u)) break;
    u = next;
    if (sums.s0 < 1.3f) break;
  }
  RaiseFloorTo(row, floor, u);
  // What may be above the floor stays, also what is not a number.
  const F bound = Set1(floor), slack = Set1(row.slack);
  int kept = 0;
  for (int i = 0; i < row.count; i += kLanes) {
    const F x = Load(score + i);
    const Mask above = FirstLanes(row.count - i) & ~Greater(bound, x + slack);
    kept += Compress(above, x, LoadI(key + i), score + kept, key + kept);
  }
  row.count = row.raised = kept;
  row.next = kept < 16 ? 32 : 2 * kept;
  if (row.next > row.most_hits) row.next = row.most_hits;
}

inline void RaiseFloorIfDue(Workspace& w, int r) {
  RowState& row = w.rows[r];
  if (row.count < row.next) return;
  RaiseFloor(w, r);
  if (row.count >= row.most_hits) {
    // No room for a page's worth of hits, or too many of its keys: the dense path takes this row.
    row.wide = true;
    w.q.floor[r] = __builtin_inff();
  }
}

// Adds what is above the floor among the scores of keys first_key + [0, n), n a multiple of kLanes, to a row's hits.
// There must be room for them.
inline void TakeHits(Workspace& w, int r, const float* scores, int n, int first_key) {
  RowState& row = w.rows[r];
  F max = Load(scores);
  for (int i = kLanes; i < n; i += kLanes) max = Max(max, Load(scores + i));
  RaiseMax(row, w.q.floor[r], ReduceMax(max));
  float* score = w.hit_scores(r);
  int32_t* key = w.hit_keys(r);
  const F bound = Set1(w.q.floor[r]);
  for (int i = 0; i < n; i += kLanes) {
    const F x = Load(scores + i);
    const Mask above = Greater(x, bound);
    if (above) {
      row.count += Compress(above, x, Iota() + (first_key + i), score + row.count, key + row.count);
    }
  }
}

// Whether some of the tile's rows see only a part of the page.
inline bool NeedsMask(const RowState* rows, int page) {
  const int first = page * kPageTokens, last = first + kPageTokens - 1;
  for (int r = 0; r < kTileRows; r++) {
    if (rows[r].position < last || rows[r].first_key > first) return true;
  }
  return false;
}

// Whether the page may hold a key with weight for row r: it sees some, and |q| |k| + slope * distance is above its floor.
inline bool MayHaveWeight(const Workspace& w, int r, int page, float key_norm) {
  const RowState& row = w.rows[r];
  const int first = page * kPageTokens, last = first + kPageTokens - 1;
  if (row.position < first || row.first_key > last) return false;
  if (!(w.q.slope[r] > 0)) return true;
  const int distance = last < row.position ? last - row.position : 0;
  const float bound = w.q.norm[r] * key_norm + w.q.slope[r] * distance;
  return !(bound + 1e-4f * __builtin_fabsf(bound) <= w.q.floor[r]);
}

// Whether some row may have a key with weight in the page or an older one.
inline bool OlderPagesMayHaveWeight(const Block& b, const Workspace& w, int page) {
  const float norm = b.call->kv.summary(b.task->slice->pages[page], b.task->kv_head).prefix_norm;
  for (int r = 0; r < b.rows; r++) {
    if (MayHaveWeight(w, r, page, norm)) return true;
  }
  return false;
}

// The tiles of the block whose rows may have a key with weight in the page, as bits; counts the statistics' blocks.
inline uint32_t LiveTiles(const Block& b, const Workspace& w, int page, AttentionStats& stats) {
  const int first = page * kPageTokens, last = first + kPageTokens - 1;
  // Rows of one head are in order of positions.
  if (!b.biased && w.rows[0].position >= last && w.rows[b.tokens - 1].first_key <= first) {
    stats.blocks_scored += b.groups;
    stats.keys_scored += int64_t{b.rows} * kPageTokens;
    return ~uint32_t{0} >> (32 - b.tiles);
  }
  const float norm =
      b.biased ? b.call->kv.summary(b.task->slice->pages[page], b.task->kv_head).key_norm : 0;
  uint32_t tiles = 0;
  uint64_t groups = 0;
  for (int tile = 0; tile < b.tiles; tile++) {
    bool live = false;
    for (int r = tile * kTileRows; r < (tile + 1) * kTileRows && r < b.rows; r++) {
      if (!MayHaveWeight(w, r, page, norm)) continue;
      live = true;
      groups |= uint64_t{1} << b.group_of(r);
    }
    if (!live) continue;
    tiles |= uint32_t{1} << tile;
    for (int r = tile * kTileRows; r < (tile + 1) * kTileRows && r < b.rows; r++) {
      stats.keys_scored += VisibleKeys(w.rows[r], page);
    }
  }
  stats.blocks_scored += __builtin_popcountll(groups);
  return tiles;
}

// Raw scores of rows [row, row + R) with the packed page to out + r * stride, -infinity where not visible if `masked`.
template <DataType kType, int R>
inline void ScorePage(const Block& b, const Workspace& w, int row, int page, bool masked,
                      float* out, int64_t stride) {
  for (int part = 0; part < kPageParts; part++) {
    const int first_key = page * kPageTokens + part * kTileKeys;
    Tile<R> acc;
    StartTile<R>(w.q, row, first_key, acc);
    ScoreTile<kType, R>(w.q, row, w.tile, b.call->kv.head_dim, part, acc);
    if (masked) MaskTile<R>(w.rows + row, first_key, acc);
    float* to = out + part * kTileKeys;
    TAUSERVE_TILE_ROWS { TAUSERVE_TILE_VECTORS Store(to + r * stride + v * kLanes, acc[r][v]); }
  }
}

// Slots of a page that hold a key which the block's newest row sees; those behind may hold anything.
inline int UsedSlots(const Block& b, const Workspace& w, int page) {
  const int slots = w.rows[b.tokens - 1].position + 1 - page * kPageTokens;
  return slots < kPageTokens ? slots : kPageTokens;
}

// Exact scores of a tile of rows with the packed page; hits are taken but for the keys in `taken`.
template <DataType kType, int R>
inline void SearchTile(const Block& b, Workspace& w, int tile, int page, uint64_t taken) {
  const int row = tile * kTileRows;
  const RowState* rows = w.rows + row;
  const bool masked = NeedsMask(rows, page);
  alignas(64) float scores[R][kTileKeys];
  for (int part = 0; part < kPageParts; part++) {
    const int first_key = page * kPageTokens + part * kTileKeys;
    Tile<R> acc;
    StartTile<R>(w.q, row, first_key, acc);
    ScoreTile<kType, R>(w.q, row, w.tile, b.call->kv.head_dim, part, acc);
    if (masked) MaskTile<R>(rows, first_key, acc);
    if (taken) {
      TAUSERVE_TILE_VECTORS {
        const Mask out = taken >> (part * kTileKeys + v * kLanes) & kAllLanes;
        TAUSERVE_TILE_ROWS acc[r][v] = Select(out, Set1(-__builtin_inff()), acc[r][v]);
      }
    }
    uint32_t hit = 0;
    TAUSERVE_TILE_ROWS {
      F max = acc[r][0];
      _Pragma("GCC unroll 4") for (int v = 1; v < kTileVectors; v++) max = Max(max, acc[r][v]);
      hit |= uint32_t{Greater(max, Set1(w.q.floor[row + r])) != 0} << r;
    }
    if (__builtin_expect(hit == 0, 1)) continue;
    TAUSERVE_TILE_ROWS { TAUSERVE_TILE_VECTORS Store(&scores[r][v * kLanes], acc[r][v]); }
    for (; hit; hit &= hit - 1) {
      const int r = __builtin_ctz(hit);
      TakeHits(w, row + r, scores[r], kTileKeys, first_key);
      RaiseFloorIfDue(w, row + r);
    }
  }
}

// The score of one row and key, ALiBi included.
template <DataType kType>
inline float ScoreKey(const Block& b, const Workspace& w, int r, int key) {
  const int head_dim = b.call->kv.head_dim;
  const float dot = DotKey<kType>(w.q.rows + r * head_dim, KeyRow(*b.call, *b.task, key), head_dim);
  return dot + w.q.slope[r] * (static_cast<float>(key) - w.q.position[r]);
}

// Exact scores of a few rows, key by key.
template <DataType kType>
inline void SearchRows(const Block& b, Workspace& w, int page) {
  for (int r = 0; r < b.rows; r++) {
    const RowState& row = w.rows[r];
    int from = page * kPageTokens;
    int to = from + kPageTokens - 1;
    if (row.first_key > from) from = row.first_key;
    if (row.position < to) to = row.position;
    if (from > to || row.wide) continue;
    alignas(64) float scores[kPageTokens];
    int n = 0;
    for (int key = from; key <= to; key++) scores[n++] = ScoreKey<kType>(b, w, r, key);
    while (n % kLanes) scores[n++] = -__builtin_inff();
    TakeHits(w, r, scores, n, from);
    RaiseFloorIfDue(w, r);
  }
}

// The rows' floors for sums of byte products with the keys of a full page.
inline void SetByteFloors(const Block& b, Workspace& w, const PageSummary& page, int last_key) {
  const F error = Set1(page.shadow_error + 1e-5f * page.key_norm);
  const F norm = Set1(page.shadow_norm);
  const F inverse = Set1(1 / page.shadow_scale);
  for (int r = 0; r < b.tiles * kTileRows; r += kLanes) {
    F floor = Load(w.q.floor + r);
    F bound = Load(w.q.norm + r) * error + Load(w.q.error + r) * norm;
    if (b.biased) {
      const F bias = Load(w.q.slope + r) * (static_cast<float>(last_key) - Load(w.q.position + r));
      floor -= bias;
      bound += (Max(floor, -floor) + Max(bias, -bias)) * 1e-5f;
    }
    Store(w.q.byte_unit + r, Load(w.q.scale + r) * page.shadow_scale);
    Store(w.q.byte_error + r, Min(bound, Set1(__builtin_inff())));  // infinite if not a number
    floor = (floor - bound) * (Load(w.q.inverse_scale + r) * inverse);
    // Whatever is not a number lets every key pass.
    floor = Min(Max(floor, Set1(-1e9f)), Set1(1e9f));
    StoreI(w.q.byte_floor + r, ToI(floor) - 2 + LoadI(w.q.byte_offset + r));
  }
}

// Adds the keys of a page whose sums of byte products are above the row's floor to its hits, with lower bounds of their
// scores. (g++ 12 with -fsanitize=thread compiles it wrongly; it touches nothing but the worker's own memory.)
__attribute__((no_sanitize("thread"))) inline void TakeBytes(const Block& b, Workspace& w, int r,
                                                             int first_key, const int32_t* sums) {
  RowState& row = w.rows[r];
  float* score = w.hit_scores(r);
  int32_t* key = w.hit_keys(r);
  const float error = w.q.byte_error[r], unit = w.q.byte_unit[r];
  const int32_t offset = w.q.byte_offset[r];
  F max = Set1(row.max);
  for (int i = 0; i < kPageTokens; i += kLanes) {
    const I sum = LoadI(sums + i), keys = Iota() + (first_key + i);
    const Mask above = GreaterI(sum, Set1(w.q.byte_floor[r]));
    F lower = ToF(sum - offset) * unit - error;
    if (b.biased) lower += (ToF(keys) - w.q.position[r]) * w.q.slope[r];
    max = Max(Select(above, lower, max), max);
    row.count += Compress(above, lower, keys, score + row.count, key + row.count);
  }
  if (Greater(max, Set1(row.max))) RaiseMax(row, w.q.floor[r], ReduceMax(max));
  // A bound is off by its error downwards and upwards.
  const float slack = 2 * error + 1e-30f;
  if (slack > row.slack) row.slack = slack;
}

// Below every floor of sums of byte products, and far enough from the least number that offsets can be taken off.
inline constexpr int32_t kNoSum = INT32_MIN / 2;

template <int R>
inline void SearchShadowTile(const Block& b, Workspace& w, int tile, int page, uint64_t taken,
                             const uint8_t* shadow) {
  const int row = tile * kTileRows;
  I acc[R][kTileVectors];
  ScoreBytes<R>(w.q, row, shadow, b.call->kv.head_dim, acc);
  if (taken) {
    TAUSERVE_TILE_VECTORS {
      const Mask out = taken >> (v * kLanes) & kAllLanes;
      TAUSERVE_TILE_ROWS acc[r][v] = SelectI(out, Set1(kNoSum), acc[r][v]);
    }
  }
  uint32_t hit = 0;
  TAUSERVE_TILE_ROWS {
    I max = acc[r][0];
    _Pragma("GCC unroll 4") for (int v = 1; v < kTileVectors; v++) max = MaxI(max, acc[r][v]);
    hit |= uint32_t{GreaterI(max, Set1(w.q.byte_floor[row + r])) != 0} << r;
  }
  if (__builtin_expect(hit == 0, 1)) return;
  alignas(64) int32_t sums[R][kPageTokens];
  TAUSERVE_TILE_ROWS { TAUSERVE_TILE_VECTORS StoreI(&sums[r][v * kLanes], acc[r][v]); }
  for (; hit; hit &= hit - 1) {
    const int r = __builtin_ctz(hit);
    TakeBytes(b, w, row + r, page * kPageTokens, sums[r]);
    RaiseFloorIfDue(w, row + r);
  }
}

// Searches a page for the block's rows, but for the keys in `taken`.
template <DataType kType>
inline void SearchPage(const Block& b, Workspace& w, int page, uint64_t taken,
                       AttentionStats& stats) {
  uint32_t live = LiveTiles(b, w, page, stats);
  if (live == 0) return;
  const LayerKv& kv = b.call->kv;
  const PageId id = b.task->slice->pages[page];
  stats.pages_read++;
  const int last_key = page * kPageTokens + kPageTokens - 1;
  const bool whole = w.rows[0].position >= last_key &&
                     w.rows[b.tokens - 1].first_key <= page * kPageTokens;  // to all rows
  if (kHasByteDot && whole && page < b.full_pages && !b.scores_few()) {
    stats.kv_bytes_read += kv.shadow_bytes();
    SetByteFloors(b, w, kv.summary(id, b.task->kv_head), last_key);
    const uint8_t* shadow = kv.shadow(id, b.task->kv_head);
    for (; live; live &= live - 1) {
      const int tile = __builtin_ctz(live);
      const int rows = b.rows - tile * kTileRows;
      if (rows <= 2) {
        SearchShadowTile<2>(b, w, tile, page, taken, shadow);
      } else if (rows <= 4) {
        SearchShadowTile<4>(b, w, tile, page, taken, shadow);
      } else {
        SearchShadowTile<kTileRows>(b, w, tile, page, taken, shadow);
      }
    }
    return;
  }
  stats.kv_bytes_read += kv.block_bytes();
  if (!b.prefill && !kPacksFast) return SearchRows<kType>(b, w, page);
  PackPage<kType>(*b.call, *b.task, page, w);
  for (; live; live &= live - 1) {
    const int tile = __builtin_ctz(live);
    if (b.rows - tile * kTileRows <= 2) {
      SearchTile<kType, 2>(b, w, tile, page, taken);
    } else {
      SearchTile<kType, kTileRows>(b, w, tile, page, taken);
    }
  }
}

TAUSERVE_INLINE void PrefetchRow(const std::byte* row, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at);
}

// Asks for the keys of a row's hits.
inline void PrefetchHits(const Block& b, const Workspace& w, int r) {
  const int64_t row_bytes = b.call->kv.row_bytes();
  for (int i = 0; i < w.rows[r].count; i++) {
    PrefetchRow(KeyRow(*b.call, *b.task, w.hit_keys(r)[i]), row_bytes);
  }
}

// Exact scores in place of bounds.
template <DataType kType>
inline void ScoreHits(const Block& b, Workspace& w, int r, AttentionStats& stats) {
  RowState& row = w.rows[r];
  float* score = w.hit_scores(r);
  float max = row.column_max;
  for (int i = 0; i < row.count; i++) {
    score[i] = ScoreKey<kType>(b, w, r, w.hit_keys(r)[i]);
    max = score[i] > max ? score[i] : max;
  }
  row.max = max;
  row.slack = 0;
  stats.kv_bytes_read += row.count * b.call->kv.row_bytes();
}

}  // namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE

#endif  // TAUSERVE_KERNELS_CPU_SEARCH_H_
