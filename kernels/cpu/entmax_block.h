// Entmax attention of a block of rows: search, then for each row the threshold, then the output, by gather where
// supports are small and by a dense product over the block's columns where they are not. Rows whose candidates outgrew
// their buffer are finished densely, tile by tile. Compiled once for each instruction set; see simd.h.
#ifndef TAUSERVE_KERNELS_CPU_ENTMAX_BLOCK_H_
#define TAUSERVE_KERNELS_CPU_ENTMAX_BLOCK_H_

#include "kernels/cpu/dense_columns.h"
#include "kernels/cpu/gather.h"
#include "kernels/cpu/search.h"

namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE {

inline int Log2Bucket(int64_t support) {
  const int b = support <= 1 ? 0 : 64 - __builtin_clzll(support - 1);
  return b < AttentionStats::kSupportBuckets ? b : AttentionStats::kSupportBuckets - 1;
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

TAUSERVE_INLINE void MarkPage(uint64_t* attended, uint32_t page) {
  attended[page / 64] |= uint64_t{1} << page % 64;
}

inline int AttendedWords(const Block& b) { return b.last_page / 64 + 1; }

// The statistics' block that a row belongs to; those of several heads take turns.
inline int GroupOf(const Block& b, int r) { return b.prefill ? b.group_of(r) : 0; }

inline uint64_t* AttendedBy(const Block& b, const Workspace& w, int r) {
  return w.attended + GroupOf(b, r) * AttendedWords(b);
}

inline void FillNan(float* out, int n) {
  for (int d = 0; d < n; d++) out[d] = __builtin_nanf("");
}

// Rows whose supports are counted for the guess: one in so many.
inline constexpr int kSampledRows = 4;

// Adds hits with weight to the statistics and the guess.
inline void MarkHits(const Block& b, Workspace& w, int r) {
  const RowState& row = w.rows[r];
  const int32_t* key = w.hit_keys(r);
  uint64_t* attended = AttendedBy(b, w, r);
  uint32_t marked =
      ~0u;  // neighbours are often of one page, and the same word would have to wait for itself
  for (int i = 0; i < row.count; i++) {
    const uint32_t page = static_cast<uint32_t>(key[i]) / kPageTokens;
    if (page != marked) MarkPage(attended, page);
    marked = page;
  }
  if (!b.prefill || r % kSampledRows != 0) return;
  int guesses = w.guess_count;  // no branches: who comes first can't be predicted
  for (int i = 0; i < row.count; i++) {
    w.guess[guesses] = key[i];
    guesses += w.supporters[key[i]]++ == 0;
  }
  w.guess_count = guesses;
}

// The same for columns with weight.
inline void MarkColumns(const Block& b, Workspace& w, int r, const RowScores& scores) {
  RowState& row = w.rows[r];
  DenseColumns& c = w.columns;
  uint64_t* attended = c.attended + GroupOf(b, r) * (kMaxColumns / 64);
  const bool sampled = r % kSampledRows == 0;
  row.column_support = 0;
  for (int64_t i = 0; i < scores.piece[0].n; i += 64) {
    uint64_t bits = 0;
    for (int l = 0; l < 64; l += kLanes) {
      const F z = GapAbove(scores, Load(scores.piece[0].score + i + l), row.gap);
      const Mask m = Greater(z, F{});
      bits |= uint64_t{m} << l;
      if (sampled) AddOnes(c.supporters + i + l, m);
    }
    attended[i / 64] |= bits;
    row.column_support += __builtin_popcountll(bits);
  }
}

// Threshold of a row whose scores are complete: the hits become those of its support, with weights in place of scores.
// Without a finite score its output is not a number.
inline void SolveRow(const Block& b, Workspace& w, int r, AttentionStats& stats) {
  RowState& row = w.rows[r];
  row.column_support = 0;
  if (row.max == -__builtin_inff()) {
    row.count = 0;
    row.normalize = 0;
    row.tau = __builtin_nanf("");
    return FillNan(w.accumulator + int64_t{r} * b.call->kv.head_dim, b.call->kv.head_dim);
  }
  const WeightFunction f = entmax::MakeWeightFunction(row.alpha);
  const float hi = row.factor * (row.max - w.q.floor[r]) * (1 + 1e-5f);
  const RowScores scores = ScoresOf(w, r);
  const Gap gap = SolveGap(f, scores, hi);
  row.gap = gap.u;
  row.tau = row.factor * row.max - gap.u;
  row.normalize = 1 / gap.sum;
  const F normalize = Set1(row.normalize);
  float* score = w.hit_scores(r);
  int32_t* key = w.hit_keys(r);
  int n = 0;
  for (int i = 0; i < row.count; i += kLanes) {
    const F p = WeightOf(f, GapAbove(scores, Load(score + i), gap.u)) * normalize;
    n += Compress(Greater(p, F{}), p, LoadI(key + i), score + n, key + n);
  }
  row.count = n;
  MarkHits(b, w, r);
  MarkColumns(b, w, r, scores);
  CountRow(gap, n + row.column_support, stats);
}

template <DataType kType>
inline void GatherRow(const Block& b, Workspace& w, int r, AttentionStats& stats) {
  const RowState& row = w.rows[r];
  GatherValues<kType>(*b.call, *b.task, w.hit_scores(r), w.hit_keys(r), row.count,
                      w.accumulator + int64_t{r} * b.call->kv.head_dim);
  stats.kv_bytes_read += row.count * b.call->kv.row_bytes();
}

// Scores of a row's columns become weights.
inline void WeighColumns(Workspace& w, int r) {
  const RowState& row = w.rows[r];
  float* score = w.columns.row(r);
  const int columns = w.columns.padded();
  if (row.wide || row.column_support == 0) {
    for (int i = 0; i < columns; i += kLanes) Store(score + i, F{});
    return;
  }
  const WeightFunction f = entmax::MakeWeightFunction(row.alpha);
  const RowScores scores = ScoresOf(w, r);
  for (int i = 0; i < columns; i += kLanes) {
    Store(score + i, WeightOf(f, GapAbove(scores, Load(score + i), row.gap)) * row.normalize);
  }
}

// Columns with weight join a row's hits.
inline void TakeColumns(Workspace& w, int r) {
  RowState& row = w.rows[r];
  if (row.column_support == 0) return;
  const WeightFunction f = entmax::MakeWeightFunction(row.alpha);
  const float* column = w.columns.row(r);
  float* weight = w.hit_scores(r);
  int32_t* key = w.hit_keys(r);
  const RowScores scores = ScoresOf(w, r);
  for (int i = 0; i < w.columns.padded(); i += kLanes) {
    const F p = WeightOf(f, GapAbove(scores, Load(column + i), row.gap)) * row.normalize;
    const Mask m = Greater(p, F{});
    if (m) {
      row.count += Compress(m, p, LoadI(w.columns.key + i), weight + row.count, key + row.count);
    }
  }
}

template <DataType kType>
inline void AddColumnValues(const Block& b, Workspace& w, AttentionStats& stats) {
  const DenseColumns& c = w.columns;
  const int head_dim = b.call->kv.head_dim;
  for (int r = 0; r < b.tiles * kTileRows; r++) {
    if (r >= b.rows) w.rows[r].column_support = 0;
    WeighColumns(w, r);
  }
  for (int column = 0; column < c.count; column += kPageTokens) {
    const void* values;
    int slots, first = 0;
    if (column < c.pages * kPageTokens) {
      const int page = c.page[column / kPageTokens];
      first = page * kPageTokens;
      slots = UsedSlots(b, w, page);
      values = PageValues<kType, false>(*b.call, *b.task, page, slots, w);
    } else {
      const std::byte* row[kPageTokens];
      slots = ColumnRows(b, c, column, /*values=*/true, row);
      values = PackValues<kType, false>(row, slots, head_dim, w.values);
    }
    stats.kv_bytes_read += slots * b.call->kv.row_bytes();
    for (int tile = 0; tile < b.tiles; tile++) {
      if (w.rows[tile * kTileRows + kTileRows - 1].position < first) continue;
      AddPackedValues<false, kTileRows>(w.columns.row(tile * kTileRows) + column, kColumnStride,
                                        slots, values, head_dim,
                                        w.accumulator + int64_t{tile} * kTileRows * head_dim);
    }
  }
}

// All scores of `tiles` tiles' rows over pages [first_page, last_page] into w.dense, -infinity where not visible.
template <DataType kType>
inline void DenseScores(const Block& b, Workspace& w, int tile, int tiles, int64_t stride,
                        AttentionStats& stats) {
  for (int page = b.first_page; page <= b.last_page; page++) {
    PackPage<kType>(*b.call, *b.task, page, w);
    for (int t = 0; t < tiles; t++) {
      float* to = w.dense + t * kTileRows * stride + (page - b.first_page) * kPageTokens;
      const int row = (tile + t) * kTileRows;
      ScorePage<kType, kTileRows>(b, w, row, page, NeedsMask(w.rows + row, page), to, stride);
    }
  }
  stats.kv_bytes_read += (b.last_page - b.first_page + 1) * b.call->kv.block_bytes();
}

// Dense rows are multiplied as softmax's are: in pairs of bfloat16 where keys are. Their weights take their scores' place,
// or half of it.
template <DataType kType>
inline constexpr int kWeightsInScore = sizeof(float) / sizeof(Weight<kPaired<kType>>);
template <DataType kType>
TAUSERVE_INLINE Weight<kPaired<kType>>* WeightsIn(float* scores) {
  return reinterpret_cast<Weight<kPaired<kType>>*>(scores);
}

// The scores of a row that has those of all keys, n of them with what is not visible.
inline RowScores AllScores(const RowState& row, const float* scores, int64_t n) {
  F max = Set1(-__builtin_inff());
  for (int64_t i = 0; i < n; i += kLanes) max = Max(Load(scores + i), max);
  RowScores all;
  all.piece[0] = {scores, n};
  all.keys = row.position - row.first_key + 1;
  all.max = ReduceMax(max);
  all.factor = row.factor;
  return all;
}

// Replaces a dense row's scores by its weights.
template <DataType kType>
inline void DenseWeights(const Block& b, RowState& row, float* scores, uint64_t* attended,
                         AttentionStats& stats) {
  const int64_t n = int64_t{b.last_page - b.first_page + 1} * kPageTokens;
  const RowScores all = AllScores(row, scores, n);
  const WeightFunction f = entmax::MakeWeightFunction(row.alpha);
  const Gap gap = SolveGap(f, all, 1);
  row.tau = row.factor * all.max - gap.u;
  const F normalize = Set1(1 / gap.sum);
  int64_t support = 0;
  for (int64_t page = 0; page < n / kPageTokens; page++) {
    int in_page = 0;
    for (int64_t i = page * kPageTokens; i < (page + 1) * kPageTokens; i += kLanes) {
      const F p = WeightOf(f, GapAbove(all, Load(scores + i), gap.u)) * normalize;
      StoreWeights(WeightsIn<kType>(scores) + i, p);
      in_page += __builtin_popcount(Greater(p, F{}));
    }
    if (in_page) MarkPage(attended, b.first_page + static_cast<int>(page));
    support += in_page;
  }
  CountRow(gap, support, stats);
}

// Finishes the wide rows among [from, to) in tiles [tile, tile + tiles): one more product, whatever the support.
template <DataType kType>
inline void FinishWideTiles(const Block& b, Workspace& w, int from, int to, int tile, int tiles,
                            AttentionStats& stats) {
  const int head_dim = b.call->kv.head_dim;
  const int64_t n = int64_t{b.last_page - b.first_page + 1} * kPageTokens;
  DenseScores<kType>(b, w, tile, tiles, n, stats);
  for (int i = 0; i < tiles * kTileRows; i++) {
    const int r = tile * kTileRows + i;
    float* scores = w.dense + i * n;
    if (r >= from && r < to && w.rows[r].wide) {
      DenseWeights<kType>(b, w.rows[r], scores, AttendedBy(b, w, r), stats);
      stats.wide_rows++;
    } else {
      for (int64_t k = 0; k < n; k += kLanes) Store(scores + k, F{});
    }
  }
  for (int page = b.first_page; page <= b.last_page; page++) {
    const int slots = UsedSlots(b, w, page);
    const void* values = PageValues<kType, kPaired<kType>>(*b.call, *b.task, page, slots, w);
    for (int t = 0; t < tiles; t++) {
      const auto* weight =
          WeightsIn<kType>(w.dense + t * kTileRows * n) + (page - b.first_page) * kPageTokens;
      AddPackedValues<kPaired<kType>, kTileRows>(
          weight, n * kWeightsInScore<kType>, slots, values, head_dim,
          w.accumulator + int64_t{tile + t} * kTileRows * head_dim);
    }
  }
  stats.kv_bytes_read += (b.last_page - b.first_page + 1) * b.call->kv.block_bytes();
}

// Rows [from, to) of the block, those of them that are wide.
template <DataType kType>
inline void FinishWideRows(const Block& b, Workspace& w, int from, int to, AttentionStats& stats) {
  const int last = (to - 1) / kTileRows;
  for (int tile = from / kTileRows; tile <= last;) {
    bool wide = false;
    for (int r = tile * kTileRows; r < (tile + 1) * kTileRows && r < b.rows; r++) {
      wide |= w.rows[r].wide && r >= from && r < to;
    }
    if (!wide) {
      tile++;
      continue;
    }
    const int tiles = last + 1 - tile < kDenseTiles ? last + 1 - tile : kDenseTiles;
    FinishWideTiles<kType>(b, w, from, to, tile, tiles, stats);
    tile += tiles;
  }
}

// The pages of columns that rows of a statistics' block give weight.
inline void MarkColumnPages(const Block& b, Workspace& w, int group) {
  DenseColumns& c = w.columns;
  uint64_t* columns = c.attended + group * (kMaxColumns / 64);
  uint64_t* attended = w.attended + group * AttendedWords(b);
  for (int i = 0; i < c.padded() / 64; i++) {
    if (i < c.pages) {
      if (columns[i]) MarkPage(attended, c.page[i]);
    } else {
      for (uint64_t bits = columns[i]; bits; bits &= bits - 1) {
        MarkPage(attended, c.key[i * 64 + __builtin_ctzll(bits)] / kPageTokens);
      }
    }
    columns[i] = 0;
  }
}

inline void CountAttended(const Block& b, Workspace& w, int groups, AttentionStats& stats) {
  for (int group = 0; group < groups; group++) MarkColumnPages(b, w, group);
  for (int i = 0; i < groups * AttendedWords(b); i++) {
    stats.blocks_attended += __builtin_popcountll(w.attended[i]);
    w.attended[i] = 0;
  }
}

// The keys that enough of the block's sampled rows supported: the guess for the next block.
inline void KeepGuess(const Block& b, Workspace& w) {
  // One or two rows that miss a key cost less than a column.
  const int sampled = (b.rows + kSampledRows - 1) / kSampledRows;
  const int least = sampled < 24 ? 2 : sampled / 8;
  int kept = 0;
  for (int i = 0; i < w.guess_count; i++) {
    const int key = w.guess[i];
    if (w.supporters[key] >= least) w.guess[kept++] = key;
    w.supporters[key] = 0;
  }
  DenseColumns& c = w.columns;
  for (int i = 0; i < c.padded(); i++) {
    if (c.supporters[i] >= least) w.guess[kept++] = c.key[i];
    c.supporters[i] = 0;
  }
  w.guess_count = kept;
}

// Whether nearly all of the columns seem to have weight in rows that see more keys than they have room for: then there is
// no use in searching.
inline bool LooksWide(const Block& b, const Workspace& w) {
  const DenseColumns& c = w.columns;
  if (w.rows[0].position - w.rows[0].first_key < kSparseHits) return false;
  int64_t seen = 0, above = 0;
  for (int r = 0; r < b.rows; r += 8) {
    const F floor = Set1(w.q.floor[r]);
    for (int i = 0; i < c.padded(); i += kLanes) {
      const F x = Load(c.row(r) + i);
      seen += __builtin_popcount(Greater(x, Set1(-3e38f)));
      above += __builtin_popcount(Greater(x, floor));
    }
  }
  return above * 10 > seen * 9;
}

// Leaves the block's rows to the dense path, which scores all pages.
inline void SkipSearch(const Block& b, Workspace& w, AttentionStats& stats) {
  for (int r = 0; r < b.rows; r++) {
    w.rows[r].wide = true;
    w.q.floor[r] = -3e38f;
  }
  for (int page = b.first_page; page <= b.last_page; page++) {
    if (IsWhole(w.columns, page)) continue;  // counted already
    LiveTiles(b, w, page, stats);
    stats.pages_read++;
  }
}

template <DataType kType>
inline void SearchBlock(const Block& b, Workspace& w, AttentionStats& stats) {
  if (!b.prefill) {
    // The newest page first, then the oldest (attention sinks), then from new to old: the floors are high early.
    SearchPage<kType>(b, w, b.last_page, 0, stats);
    if (b.first_page < b.last_page) SearchPage<kType>(b, w, b.first_page, 0, stats);
    for (int page = b.last_page - 1; page > b.first_page; page--) {
      if (b.biased && !OlderPagesMayHaveWeight(b, w, page)) break;
      SearchPage<kType>(b, w, page, 0, stats);
    }
    return;
  }
  if (w.expect_wide) return SkipSearch(b, w, stats);
  ChooseColumns(b, w);
  SearchColumns<kType>(b, w, stats);
  if (LooksWide(b, w)) return SkipSearch(b, w, stats);
  for (int page = b.last_page; page >= b.first_page; page--) {
    const uint64_t taken = w.columns.taken[page];
    if (taken == ~uint64_t{0}) {
      if (!IsWhole(w.columns, page)) {  // all its keys were columns, one by one
        LiveTiles(b, w, page, stats);
        stats.pages_read++;
      }
      continue;
    }
    if (b.biased && !OlderPagesMayHaveWeight(b, w, page)) break;
    SearchPage<kType>(b, w, page, taken, stats);
  }
}

// The search is over: a row that knows its hits by bounds only drops what it can and asks for the others' keys.
inline void PrepareHits(const Block& b, Workspace& w, int r) {
  if (w.rows[r].wide || !(w.rows[r].slack > 0)) return;
  constexpr int kFewHits = 24;  // sooner scored than a floor raised
  if (w.rows[r].count > kFewHits) RaiseFloor(w, r);
  PrefetchHits(b, w, r);
}

// Hits from which a row that sees `keys` keys is left to the dense path; there is room for a page's more.
inline int MostHits(int keys) {
  const int most = keys / kDenseShare > kSparseHits ? keys / kDenseShare : kSparseHits;
  return (most < kMaxHits ? most : kMaxHits) - kPageTokens;
}

template <DataType kType>
inline void EntmaxBlock(const Block& b, Workspace& w, AttentionStats& stats) {
  const int head_dim = b.call->kv.head_dim;
  for (int r = 0; r < b.tiles * kTileRows; r++) {
    RowState& row = w.rows[r];
    row.max = row.column_max = -__builtin_inff();
    row.slack = 0;
    row.count = 0;
    row.next = 32;
    row.raised = 0;
    row.most_hits = MostHits(row.position + 1 - row.first_key);
    row.wide = w.expect_wide;
    w.q.floor[r] = r < b.rows && !row.wide ? -3e38f : __builtin_inff();
  }
  for (int64_t i = 0; i < int64_t{b.tiles} * kTileRows * head_dim; i++) w.accumulator[i] = 0;
  w.columns.count = w.columns.pages = 0;
  SearchBlock<kType>(b, w, stats);
  stats.rows += b.rows;
  if (!b.prefill) {
    for (int head = 0; head < b.groups; head++) {
      const int from = head * b.tokens, to = from + b.tokens;
      for (int r = from; r < to; r++) {
        if (w.rows[r].wide) continue;
        PrepareHits(b, w, r);
        if (w.rows[r].slack > 0) ScoreHits<kType>(b, w, r, stats);
        SolveRow(b, w, r, stats);
        GatherRow<kType>(b, w, r, stats);
      }
      FinishWideRows<kType>(b, w, from, to, stats);
      CountAttended(b, w, 1, stats);
    }
    return;
  }
  w.guess_count = 0;
  const int64_t support_before = stats.support, wide_before = stats.wide_rows;
  int64_t support = 0;
  bool fits = true;  // all of a row's support in its list
  PrepareHits(b, w, 0);
  for (int r = 0; r < b.rows; r++) {
    if (r + 1 < b.rows) PrepareHits(b, w, r + 1);
    if (w.rows[r].wide) continue;
    if (w.rows[r].slack > 0) ScoreHits<kType>(b, w, r, stats);
    SolveRow(b, w, r, stats);
    support += w.rows[r].column_support;
    fits &= w.rows[r].count + w.rows[r].column_support <= kMaxHits - kPageTokens;
  }
  // A key of a gather costs about as much as six columns of a product.
  if (!fits || support * 6 > int64_t{b.rows} * w.columns.count) {
    AddColumnValues<kType>(b, w, stats);
  } else {
    for (int r = 0; r < b.rows; r++) {
      if (!w.rows[r].wide) TakeColumns(w, r);
    }
  }
  for (int r = 0; r < b.rows; r++) {
    if (!w.rows[r].wide && w.rows[r].count) GatherRow<kType>(b, w, r, stats);
  }
  FinishWideRows<kType>(b, w, 0, b.rows, stats);
  CountAttended(b, w, b.groups, stats);
  KeepGuess(b, w);
  w.expect_wide = 2 * (stats.wide_rows - wide_before) > b.rows &&
                  4 * (stats.support - support_before) > b.visible_keys;
}

}  // namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE

#endif  // TAUSERVE_KERNELS_CPU_ENTMAX_BLOCK_H_
