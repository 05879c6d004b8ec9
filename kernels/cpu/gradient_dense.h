// Gradients of rows that have weight in many of their keys, softmax rows among them: five dense products over tiles of
// rows and all pages that the block sees, in float32. Compiled once for each instruction set; see simd.h.
#ifndef TAUSERVE_KERNELS_CPU_GRADIENT_DENSE_H_
#define TAUSERVE_KERNELS_CPU_GRADIENT_DENSE_H_

#include "kernels/cpu/entmax_block.h"

namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE {

// dp/ds up to a row's common terms: z^(e - 1) for z > 0, where e = 1 / (alpha - 1).
TAUSERVE_INLINE F SlopeOf(const WeightFunction& f, F z) {
  if (f.form == Form::kSquare) return Max(z, F{});
  if (f.form == Form::kLinear) return Select(Greater(z, F{}), Set1(1.0f), F{});
  return PowerOf(z, f.exponent - 1);
}

// The first `slots` keys or values of a page as floats, where they lie or in w.values.
template <DataType kType>
inline const float* PageFloats(const Block& b, const std::byte* rows, int slots, Workspace& w) {
  if constexpr (kType == DataType::kFloat32) {
    return reinterpret_cast<const float*>(rows);
  } else {
    const std::byte* row[kPageTokens];
    for (int i = 0; i < slots; i++) row[i] = rows + i * b.call->kv.row_bytes();
    UnpackValues<kType>(row, slots, b.call->kv.head_dim, w.values);
    return w.values;
  }
}

inline void PackFloats(const float* rows, int head_dim, Workspace& w) {
  const std::byte* row[kPageTokens];
  for (int i = 0; i < kPageTokens; i++) {
    row[i] = reinterpret_cast<const std::byte*>(rows + int64_t{i} * head_dim);
  }
  PackKeys<DataType::kFloat32>(row, head_dim, w.tile);
  w.tile_page = -1;
}

// Tiles of a block that are worked on together: row i's numbers at i * stride.
struct DenseTiles {
  int first;  // tile of the block
  int count;
  int64_t stride;  // keys of all pages of the block
};

// Scores to w.dense, -infinity where not visible, and dO . V to w.dense_dp, anything there.
template <DataType kType>
inline void DenseProducts(const Block& b, Workspace& w, const DenseTiles& t) {
  const LayerKv& kv = b.call->kv;
  for (int page = b.first_page; page <= b.last_page; page++) {
    const PageId id = b.task->slice->pages[page];
    const int slots = UsedSlots(b, w, page);
    const int64_t at = int64_t{page - b.first_page} * kPageTokens;
    PackFloats(PageFloats<kType>(b, kv.keys(id, b.task->kv_head), slots, w), kv.head_dim, w);
    for (int i = 0; i < t.count; i++) {
      const int row = (t.first + i) * kTileRows;
      ScorePage<DataType::kFloat32, kTileRows>(b, w, row, page, NeedsMask(w.rows + row, page),
                                               w.dense + i * kTileRows * t.stride + at, t.stride);
    }
    PackFloats(PageFloats<kType>(b, kv.values(id, b.task->kv_head), slots, w), kv.head_dim, w);
    for (int i = 0; i < t.count; i++) {
      constexpr int R = kTileRows;
      const float* dout = w.dout + int64_t{t.first + i} * R * kv.head_dim;
      float* to = w.dense_dp + i * R * t.stride + at;
      for (int part = 0; part < kPageParts; part++) {
        Tile<R> acc = {};
        MultiplyTile<R>(dout, w.tile, kv.head_dim, part, acc);
        TAUSERVE_TILE_ROWS {
          TAUSERVE_TILE_VECTORS {
            Store(to + r * t.stride + part * kTileKeys + v * kLanes, acc[r][v]);
          }
        }
      }
    }
  }
}

// Replaces a row's n scores by p, and its dP by da times |scale|. Returns the support's size, or -1 where no score is a
// number.
inline int64_t DenseRow(const RowState& row, float magnitude, int64_t n, float* score, float* dp) {
  const RowScores all = AllScores(row, score, n);
  if (all.max == -__builtin_inff()) return -1;
  const bool softmax = row.alpha == 1;
  const WeightFunction f = softmax ? WeightFunction() : entmax::MakeWeightFunction(row.alpha);
  const Gap gap = softmax ? Gap() : SolveGap(f, all, 1);
  F weights{}, slopes{}, product{};
  for (int64_t i = 0; i < n; i += kLanes) {
    const F z = GapAbove(all, Load(score + i), gap.u);
    const F p = softmax ? Exp2(z) : WeightOf(f, z);
    const F g = softmax ? p : SlopeOf(f, z);
    weights += p;
    slopes += g;
    product += Select(Greater(g, F{}), g * Load(dp + i), F{});
  }
  const F normalize = Set1(1 / ReduceAdd(weights));
  const F mean = Set1(ReduceAdd(product) / ReduceAdd(slopes));
  int64_t support = 0;
  for (int64_t i = 0; i < n; i += kLanes) {
    const F z = GapAbove(all, Load(score + i), gap.u);
    const F p = (softmax ? Exp2(z) : WeightOf(f, z)) * normalize;
    const F g = softmax ? p : SlopeOf(f, z);
    const Mask m = Greater(p, F{});
    Store(score + i, p);
    Store(dp + i, Select(m, g * (Load(dp + i) - mean) * magnitude, F{}));
    support += __builtin_popcount(m);
  }
  return support;
}

// Rows as weights of a product with the transposed: output row r is a key, step t a query row.
struct TransposedRows {
  using Element = F;
  const float* weights;
  int64_t stride;
  const float* values;
  int head_dim;

  F Weight(int r, int t) const { return Set1(weights[t * stride + r]); }
  F Value(int t, int d) const { return Load(values + int64_t{t} * head_dim + d); }
  static F Add(F weight, F value, F acc) { return Fma(weight, value, acc); }
};

// out[key] += sum over rows of weights[row][key] values[row], for a page's keys.
inline void AddToKeys(TransposedRows rows, int steps, float* out) {
  int key = 0;
  for (; key + kTileRows <= kPageTokens; key += kTileRows) {
    AddTileValues<kTileRows>(rows, steps, out + key * rows.head_dim);
    rows.weights += kTileRows;
  }
  static_assert(kPageTokens % kTileRows == 4);
  AddTileValues<4>(rows, steps, out + key * rows.head_dim);
}

// From p in w.dense and da in w.dense_dp: dq to the accumulator, and dk and dv.
template <DataType kType>
inline void AddDenseGradients(const Block& b, const GradientTask& task, Workspace& w,
                              const DenseTiles& t) {
  const LayerKv& kv = b.call->kv;
  const int steps = t.count * kTileRows;
  const int64_t row = int64_t{t.first} * kTileRows * kv.head_dim;
  for (int page = b.first_page; page <= b.last_page; page++) {
    const int slots = UsedSlots(b, w, page);
    const int64_t at = int64_t{page - b.first_page} * kPageTokens;
    const std::byte* there = kv.keys(b.task->slice->pages[page], b.task->kv_head);
    const float* keys = PageFloats<kType>(b, there, slots, w);
    for (int i = 0; i < t.count; i++) {
      AddPackedValues<false, kTileRows>(w.dense_dp + i * kTileRows * t.stride + at, t.stride, slots,
                                        keys, kv.head_dim,
                                        w.accumulator + row + int64_t{i} * kTileRows * kv.head_dim);
    }
    const int64_t out = int64_t{page} * kPageTokens * kv.head_dim;
    AddToKeys({w.dense_dp + at, t.stride, w.q.rows + row, kv.head_dim}, steps, task.dk + out);
    AddToKeys({w.dense + at, t.stride, w.dout + row, kv.head_dim}, steps, task.dv + out);
  }
}

template <DataType kType>
inline void DenseGradientTiles(const Block& b, const GradientTask& task, Workspace& w,
                               const DenseTiles& t, float magnitude, AttentionStats& stats) {
  const int head_dim = b.call->kv.head_dim;
  DenseProducts<kType>(b, w, t);
  bool is_nan[kDenseTiles * kTileRows] = {};
  for (int i = 0; i < t.count * kTileRows; i++) {
    const int r = t.first * kTileRows + i;
    float *score = w.dense + i * t.stride, *dp = w.dense_dp + i * t.stride;
    float* dq = w.accumulator + int64_t{r} * head_dim;
    int64_t support = -1;
    if (r < b.rows && w.rows[r].wide) {
      support = DenseRow(w.rows[r], magnitude, t.stride, score, dp);
      is_nan[i] = support < 0;
      for (int d = 0; d < head_dim; d += kLanes) Store(dq + d, F{});
    }
    if (support >= 0) {
      stats.support += support;
      continue;
    }
    for (int64_t k = 0; k < t.stride; k += kLanes) {
      Store(score + k, F{});
      Store(dp + k, F{});
    }
  }
  AddDenseGradients<kType>(b, task, w, t);
  for (int i = 0; i < t.count * kTileRows; i++) {
    const int64_t r = t.first * kTileRows + i;
    if (is_nan[i]) FillNan(w.accumulator + r * head_dim, head_dim);
  }
}

// The block's wide rows.
template <DataType kType>
inline void DenseGradients(const Block& b, const GradientTask& task, Workspace& w, float magnitude,
                           AttentionStats& stats) {
  for (int tile = 0; tile < b.tiles;) {
    bool wide = false;
    for (int r = tile * kTileRows; r < (tile + 1) * kTileRows && r < b.rows; r++) {
      wide |= w.rows[r].wide;
    }
    if (!wide) {
      tile++;
      continue;
    }
    const int left = b.tiles - tile;
    DenseTiles t;
    t.first = tile;
    t.count = left < kDenseTiles ? left : kDenseTiles;
    t.stride = int64_t{b.last_page - b.first_page + 1} * kPageTokens;
    DenseGradientTiles<kType>(b, task, w, t, magnitude, stats);
    tile += t.count;
  }
}

}  // namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE

#endif  // TAUSERVE_KERNELS_CPU_GRADIENT_DENSE_H_
