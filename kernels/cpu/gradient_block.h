// Gradients of a block of rows. The search runs again with the threshold of the forward pass as floor, so that little
// but the support passes it; from there on the work is proportional to the support. With z_j = max(s_j - tau, 0),
// e = 1 / (alpha - 1), g_j = z_j^(e - 1) on the support and dP_j = dO . v_j (softmax: g = p):
//     da_j  = g_j (dP_j - sum_k g_k dP_k / sum_k g_k)            (Peters, Niculae, Martins 2019, proposition 2)
//     dq    = scale sum_j da_j k_j;   dk_j += scale da_j q;   dv_j += p_j dO
// Rows of wide supports, and those of softmax, go through dense products, tile by tile.
// Compiled once for each instruction set; see simd.h.
#ifndef TAUSERVE_KERNELS_CPU_GRADIENT_BLOCK_H_
#define TAUSERVE_KERNELS_CPU_GRADIENT_BLOCK_H_

#include "kernels/cpu/block_rows.h"
#include "kernels/cpu/entmax_block.h"
#include "kernels/cpu/gradient_dense.h"

namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE {

// Hits from which a row is left to the dense path: one that is gathered and scattered costs as much as so many keys
// there.
inline int MostGradientHits(int keys) {
  constexpr int kFewHits = 256, kShare = 8;
  const int most = keys / kShare > kFewHits ? keys / kShare : kFewHits;
  return (most < kMaxHits ? most : kMaxHits) - kPageTokens;
}

// Finds the hits of the block's rows, or leaves rows to the dense path.
template <DataType kType>
inline void SearchSupports(const Block& b, Workspace& w, AttentionStats& stats) {
  w.columns.count = w.columns.pages = 0;
  const AttentionCall& call = *b.call;
  for (int r = 0; r < b.tiles * kTileRows; r++) {
    RowState& row = w.rows[r];
    row.max = row.column_max = -__builtin_inff();
    row.slack = 0;
    row.count = row.raised = 0;
    row.most_hits = row.next = MostGradientHits(row.position + 1 - row.first_key);
    row.wide = w.expect_wide;
    w.q.floor[r] = __builtin_inff();
    if (r >= b.rows || row.wide) continue;
    const int64_t at = b.task->slice->first_row + b.token_begin + r;
    const float tau = call.tau[b.task->head_begin * call.tau_head_stride + at] / row.factor;
    // Below by what the rounding of scores and of tau can be.
    w.q.floor[r] = tau - 1e-5f / row.factor - 4e-6f * __builtin_fabsf(tau);
  }
  if (w.expect_wide) return;
  for (int page = b.last_page; page >= b.first_page; page--) {
    if (b.biased && !OlderPagesMayHaveWeight(b, w, page)) break;
    SearchPage<kType>(b, w, page, 0, stats);
  }
}

// Replaces a row's hits by its support: keys, p in `p` and da times |scale| in `da`. Returns its size.
template <DataType kType>
inline int SupportGradients(const Block& b, Workspace& w, int r, float magnitude, float* p,
                            float* da) {
  RowState& row = w.rows[r];
  const int head_dim = b.call->kv.head_dim;
  const WeightFunction f = entmax::MakeWeightFunction(row.alpha);
  const RowScores scores = ScoresOf(w, r);
  const Gap gap = SolveGap(f, scores, row.factor * (row.max - w.q.floor[r]) * (1 + 1e-5f));
  float* z = w.hit_scores(r);
  int32_t* key = w.hit_keys(r);
  int n = 0;
  for (int i = 0; i < row.count; i += kLanes) {
    const F above = GapAbove(scores, Load(z + i), gap.u);
    const Mask seen = FirstLanes(row.count - i) & Greater(WeightOf(f, above), F{});
    n += Compress(seen, above, LoadI(key + i), z + n, key + n);
  }
  Store(z + n, F{});
  const float* dout = w.dout + int64_t{r} * head_dim;
  constexpr int kAhead = 8;
  for (int i = 0; i < n; i++) {
    if (i + kAhead < n)
      PrefetchRow(ValueRow(*b.call, *b.task, key[i + kAhead]), b.call->kv.row_bytes());
    da[i] = DotKey<kType>(dout, ValueRow(*b.call, *b.task, key[i]), head_dim);
  }
  Store(da + n, F{});
  const F normalize = Set1(1 / gap.sum);
  F sum{}, product{};
  for (int i = 0; i < n; i += kLanes) {
    const F above = Load(z + i), g = SlopeOf(f, above);
    Store(p + i, WeightOf(f, above) * normalize);
    Store(z + i, g);
    sum += g;
    product = Fma(g, Load(da + i), product);
  }
  const F mean = Set1(ReduceAdd(product) / ReduceAdd(sum));
  for (int i = 0; i < n; i += kLanes) {
    Store(da + i, Load(z + i) * (Load(da + i) - mean) * magnitude);
  }
  return n;
}

// kGroup registers of each array from dimension `dim` on: dq of row r, and what the row adds to its keys.
template <DataType kType, int kGroup>
inline void ScatterDimensions(const Block& b, const GradientTask& task, Workspace& w, int r,
                              int dim, const float* p, const float* da, int n) {
  const int head_dim = b.call->kv.head_dim;
  const int32_t* key = w.hit_keys(r);
  const float* q_row = w.q.rows + int64_t{r} * head_dim + dim;
  const float* dout_row = w.dout + int64_t{r} * head_dim + dim;
  float* dq_row = w.accumulator + int64_t{r} * head_dim + dim;
  F q[kGroup], dout[kGroup], dq[kGroup];
  _Pragma("GCC unroll 4") for (int g = 0; g < kGroup; g++) {
    q[g] = Load(q_row + g * kLanes);
    dout[g] = Load(dout_row + g * kLanes);
    dq[g] = F{};
  }
  constexpr int kAhead = 6, kBytes = kGroup * kLanes * 4;
  for (int i = 0; i < n; i++) {
    if (i + kAhead < n) {
      const int64_t next = int64_t{key[i + kAhead]} * head_dim + dim;
      PrefetchRow(KeyRow(*b.call, *b.task, key[i + kAhead]) + dim * SizeOf(kType), kBytes);
      PrefetchRow(reinterpret_cast<const std::byte*>(task.dk + next), kBytes);
      PrefetchRow(reinterpret_cast<const std::byte*>(task.dv + next), kBytes);
    }
    const std::byte* k = KeyRow(*b.call, *b.task, key[i]);
    float* dk = task.dk + int64_t{key[i]} * head_dim + dim;
    float* dv = task.dv + int64_t{key[i]} * head_dim + dim;
    const F a = Set1(da[i]), weight = Set1(p[i]);
    _Pragma("GCC unroll 4") for (int g = 0; g < kGroup; g++) {
      dq[g] = Fma(a, LoadElements<kType>(k, dim + g * kLanes), dq[g]);
      Store(dk + g * kLanes, Fma(a, q[g], Load(dk + g * kLanes)));
      Store(dv + g * kLanes, Fma(weight, dout[g], Load(dv + g * kLanes)));
    }
  }
  _Pragma("GCC unroll 4") for (int g = 0; g < kGroup; g++) Store(dq_row + g * kLanes, dq[g]);
}

template <DataType kType>
inline void SparseRow(const Block& b, const GradientTask& task, Workspace& w, int r,
                      float magnitude, AttentionStats& stats) {
  RowState& row = w.rows[r];
  const int head_dim = b.call->kv.head_dim;
  if (row.slack > 0) ScoreHits<kType>(b, w, r, stats);
  if (row.max == -__builtin_inff()) {
    return FillNan(w.accumulator + int64_t{r} * head_dim, head_dim);
  }
  float *p = w.dense, *da = w.dense_dp;
  const int n = SupportGradients<kType>(b, w, r, magnitude, p, da);
  stats.support += n;
  int dim = 0;
  for (; dim + 4 * kLanes <= head_dim; dim += 4 * kLanes) {
    ScatterDimensions<kType, 4>(b, task, w, r, dim, p, da, n);
  }
  for (; dim < head_dim; dim += kLanes) {
    ScatterDimensions<kType, 1>(b, task, w, r, dim, p, da, n);
  }
}

// One head's rows [token_begin, token_begin + rows) of the task: dq, and what they add to dk and dv.
template <DataType kType>
inline void GradientBlock(const GradientCall& call, const GradientTask& task, Block& b,
                          Workspace& w) {
  const AttentionTask& rows = *b.task;
  const int head_dim = call.forward.kv.head_dim, head = rows.head_begin;
  const bool softmax = call.forward.alpha[head] == 1;
  AttentionStats& stats = w.stats[rows.slice_index];
  StartBlock<kType>(b, softmax, w);
  const int64_t first = rows.slice->first_row + b.token_begin;
  for (int r = 0; r < b.tiles * kTileRows; r++) {
    float* to = w.dout + int64_t{r} * head_dim;
    const float* from = call.dout + (first + r) * call.dout_stride + head * call.dout_head_stride;
    for (int d = 0; d < head_dim; d += kLanes) Store(to + d, r < b.rows ? Load(from + d) : F{});
  }
  const Scale scale = ScaleOf(call.forward.spec->scale);
  if (softmax) {
    for (int r = 0; r < b.rows; r++) w.rows[r].wide = true;
    DenseGradients<kType>(b, task, w, scale.magnitude, stats);
  } else {
    const int64_t support_before = stats.support;
    SearchSupports<kType>(b, w, stats);
    int wide = 0;
    for (int r = 0; r < b.rows; r++) {
      wide += w.rows[r].wide;
      if (!w.rows[r].wide) SparseRow<kType>(b, task, w, r, scale.magnitude, stats);
    }
    DenseGradients<kType>(b, task, w, scale.magnitude, stats);
    w.expect_wide = 2 * wide > b.rows && 4 * (stats.support - support_before) > b.visible_keys;
  }
  for (int r = 0; r < b.rows; r++) {
    const float* from = w.accumulator + int64_t{r} * head_dim;
    float* to = call.dq + (first + r) * call.dq_stride + head * call.dq_head_stride;
    for (int d = 0; d < head_dim; d += kLanes) Store(to + d, Load(from + d) * scale.sign);
  }
}

template <DataType kType>
inline void GradientTyped(const GradientCall& call, const GradientTask& task, Workspace& w) {
  for (int head = task.rows.head_begin; head < task.rows.head_end; head++) {
    AttentionTask rows = task.rows;
    rows.head_begin = head;
    rows.head_end = head + 1;
    Block b;
    b.call = &call.forward;
    b.task = &rows;
    b.biased = call.forward.alibi_slope[head] > 0;
    b.full_pages = (rows.slice->context_tokens + rows.slice->num_tokens) / kPageTokens;
    b.prefill = true;
    w.tile_page = -1;
    w.expect_wide = false;
    const int most = b.biased ? kPageTokens : kSearchRows;
    for (int token = rows.token_begin; token < rows.token_end; token += b.rows) {
      const int end = token + most - (rows.slice->context_tokens + token) % most;
      b.token_begin = token;
      b.rows = b.tokens = (end < rows.token_end ? end : rows.token_end) - token;
      GradientBlock<kType>(call, task, b, w);
    }
  }
}

// Adds one task's part to dk and dv, and writes its rows of dq.
inline void AttendGradients(const GradientCall& call, const GradientTask& task, Workspace& w) {
  if (call.forward.kv.type == DataType::kBFloat16) {
    GradientTyped<DataType::kBFloat16>(call, task, w);
  } else {
    GradientTyped<DataType::kFloat32>(call, task, w);
  }
}

}  // namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE

#endif  // TAUSERVE_KERNELS_CPU_GRADIENT_BLOCK_H_
