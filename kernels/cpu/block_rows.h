// Sets a block of query rows up: queries in the forms that the kernels read, and the pages that the rows see.
// Compiled once for each instruction set; see simd.h.
#ifndef TAUSERVE_KERNELS_CPU_BLOCK_ROWS_H_
#define TAUSERVE_KERNELS_CPU_BLOCK_ROWS_H_

#include "kernels/cpu/search.h"

namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE {

inline constexpr int kPrefetchRows = 6;

// A scores' scale, divided up: the sign goes into the queries. sign 0: nothing but the bias is left.
struct Scale {
  float magnitude;
  float sign;
};
inline Scale ScaleOf(float scale) {
  const float magnitude = __builtin_fabsf(scale);
  if (magnitude < 1e-20f) return {1, 0};
  return {magnitude, scale < 0 ? -1.0f : 1.0f};
}

// Fills the block's rows from the task. Scores are raw, q . k + bias / (scale * query_scale), with the sign of the
// query's scale moved into q, so that the cache's products are compared with floors as they come.
template <DataType kType>
inline void LoadRows(const Block& b, bool softmax, Workspace& w) {
  const AttentionCall& call = *b.call;
  const AttentionTask& task = *b.task;
  const AttentionSpec& spec = *call.spec;
  for (int r = 0; r < b.tiles * kTileRows; r++) {
    const int source = r < b.rows ? r : b.rows - 1;
    const int head = task.head_begin + source / b.tokens;
    const int token = b.token_begin + source % b.tokens;
    const int64_t batch_row = task.slice->first_row + token;
    float scale = spec.scale;
    if (call.query_scale) scale *= call.query_scale[batch_row * call.query_scale_stride + head];
    const float* q = call.q + batch_row * call.q_stride + head * call.q_head_stride;
    if (source + kPrefetchRows < b.tokens) {  // rows lie too far apart for the hardware to see it
      for (int d = 0; d < spec.head_dim; d += 16) {
        __builtin_prefetch(q + kPrefetchRows * call.q_stride + d);
      }
    }
    const auto [magnitude, sign] = ScaleOf(scale);
    StoreQuery<kType>(q, sign, spec.head_dim, r, w.q);
    if (kHasByteDot && !softmax && !b.scores_few()) StoreQueryBytes(spec.head_dim, r, w.q);
    RowState& row = w.rows[r];
    row.alpha = call.alpha[head];
    row.factor = magnitude * (softmax ? 1.44269504f : row.alpha - 1);
    row.position = task.slice->context_tokens + (spec.causal ? token : task.slice->num_tokens - 1);
    const int window = spec.sliding_window;
    row.first_key = window > 0 && row.position >= window ? row.position - window + 1 : 0;
    w.q.slope[r] = call.alibi_slope[head] / magnitude;
    w.q.position[r] = static_cast<float>(row.position);
  }
}

// From the task's heads and the block's token_begin, tokens and rows.
template <DataType kType>
inline void StartBlock(Block& b, bool softmax, Workspace& w) {
  const AttentionTask& task = *b.task;
  b.tiles = (b.rows + kTileRows - 1) / kTileRows;
  LoadRows<kType>(b, softmax, w);
  b.first_page = w.rows[0].first_key / kPageTokens;
  b.last_page = w.rows[b.tokens - 1].position / kPageTokens;
  b.groups = task.head_end - task.head_begin;
  if (b.prefill) {
    const int first = task.slice->context_tokens + b.token_begin;
    b.first_group_rows = kPageTokens - first % kPageTokens;
    b.groups = (first + b.rows - 1) / kPageTokens - first / kPageTokens + 1;
  }
  b.visible_keys = 0;
  for (int r = 0; r < b.rows; r++) {
    b.visible_keys += w.rows[r].position - w.rows[r].first_key + 1;
  }
}

}  // namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE

#endif  // TAUSERVE_KERNELS_CPU_BLOCK_ROWS_H_
