// Compiled once for each instruction set, with its flags, TAUSERVE_ISA_NAMESPACE and TAUSERVE_ISA_LEVEL.
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/entmax_block.h"
#include "kernels/cpu/flash_block.h"
#include "kernels/cpu/kernels.h"

namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE {
namespace {

// Fills the block's rows from the task. Scores are raw, q . k + bias / (scale * query_scale), with the sign of the
// query's scale moved into q, so that the cache's products are compared with floors as they come.
template <DataType kType>
void LoadRows(const AttentionCall& call, const AttentionTask& task, const Block& b, bool softmax,
              Workspace& w) {
  const AttentionSpec& spec = *call.spec;
  for (int r = 0; r < b.tiles * kTileRows; r++) {
    const int source = r < b.rows ? r : b.rows - 1;
    const int head = task.head_begin + source / b.tokens;
    const int token = task.token_begin + source % b.tokens;
    const int64_t batch_row = task.slice->first_row + token;
    float scale = spec.scale;
    if (call.query_scale) scale *= call.query_scale[batch_row * call.query_scale_stride + head];
    const float* q = call.q + batch_row * call.q_stride + int64_t{head} * spec.head_dim;
    const bool vanishes = __builtin_fabsf(scale) < 1e-20f;  // then only the bias is left
    const float magnitude = vanishes ? 1.0f : __builtin_fabsf(scale);
    const float sign = vanishes ? 0.0f : scale < 0 ? -1.0f : 1.0f;
    RowState& row = w.rows[r];
    row.q_norm = StoreQuery<kType>(q, sign, spec.head_dim, r, w);
    row.alpha = call.alpha[head];
    row.factor = magnitude * (softmax ? 1.44269504f : row.alpha - 1);
    row.slope = call.alibi_slope[head] / magnitude;
    row.position = task.slice->context_tokens + token;
    const int window = spec.sliding_window;
    row.first_key = window > 0 && row.position >= window ? row.position - window + 1 : 0;
  }
}

template <DataType kType>
void AttendTyped(const AttentionCall& call, const AttentionTask& task, Workspace& w) {
  Block b;
  b.call = &call;
  b.task = &task;
  b.tokens = task.token_end - task.token_begin;
  b.rows = (task.head_end - task.head_begin) * b.tokens;
  b.tiles = (b.rows + kTileRows - 1) / kTileRows;
  const bool softmax = call.alpha[task.head_begin] == 1;
  LoadRows<kType>(call, task, b, softmax, w);
  b.first_page = w.rows[0].first_key / kPageTokens;
  b.last_page = w.rows[b.tokens - 1].position / kPageTokens;

  AttentionStats& stats = w.stats[task.slice_index];
  const int heads = task.head_end - task.head_begin;
  const int64_t pages = b.last_page - b.first_page + 1;
  stats.blocks_considered += heads * pages;
  stats.pages_considered += pages;
  for (int r = 0; r < b.rows; r++) {
    stats.keys_considered += w.rows[r].position - w.rows[r].first_key + 1;
  }
  if (softmax) {
    FlashBlock<kType>(b, w, stats);
  } else {
    EntmaxBlock<kType>(b, w, stats);
  }
  for (int r = 0; r < b.rows; r++) {
    const int64_t batch_row = task.slice->first_row + task.token_begin + r % b.tokens;
    const int head = task.head_begin + r / b.tokens;
    __builtin_memcpy(call.out + batch_row * call.out_stride + int64_t{head} * call.spec->head_dim,
                     w.accumulator + int64_t{r} * call.spec->head_dim, call.spec->head_dim * 4);
  }
}

void Attend(const AttentionCall& call, const AttentionTask& task, Workspace& w) {
  if (call.kv.type == DataType::kBFloat16) {
    AttendTyped<DataType::kBFloat16>(call, task, w);
  } else {
    AttendTyped<DataType::kFloat32>(call, task, w);
  }
}

}  // namespace

const Kernels kKernels = {Attend,   AppendToken, RmsNormRow, GatedActivationRow,
                          RopeHead, ToBf16Row,   PutRow};

}  // namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE
