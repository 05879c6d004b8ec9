// Compiled once for each instruction set, with its flags, TAUSERVE_ISA_NAMESPACE and TAUSERVE_ISA_LEVEL.
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/entmax_block.h"
#include "kernels/cpu/flash_block.h"
#include "kernels/cpu/kernels.h"

namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE {
namespace {

inline constexpr int kPrefetchRows = 6;

// Fills the block's rows from the task. Scores are raw, q . k + bias / (scale * query_scale), with the sign of the
// query's scale moved into q, so that the cache's products are compared with floors as they come.
template <DataType kType>
void LoadRows(const Block& b, bool softmax, Workspace& w) {
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
    const float* q = call.q + batch_row * call.q_stride + int64_t{head} * spec.head_dim;
    if (source + kPrefetchRows < b.tokens) {  // rows lie too far apart for the hardware to see it
      for (int d = 0; d < spec.head_dim; d += 16) {
        __builtin_prefetch(q + kPrefetchRows * call.q_stride + d);
      }
    }
    const bool vanishes = __builtin_fabsf(scale) < 1e-20f;  // then only the bias is left
    const float magnitude = vanishes ? 1.0f : __builtin_fabsf(scale);
    const float sign = vanishes ? 0.0f : scale < 0 ? -1.0f : 1.0f;
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

template <DataType kType>
void AttendBlock(Block& b, bool softmax, Workspace& w) {
  const AttentionCall& call = *b.call;
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
  AttentionStats& stats = w.stats[task.slice_index];
  const int64_t pages = b.last_page - b.first_page + 1;
  stats.pages_considered += pages;
  b.visible_keys = 0;
  for (int r = 0; r < b.rows; r++) {
    b.visible_keys += w.rows[r].position - w.rows[r].first_key + 1;
  }
  stats.keys_considered += b.visible_keys;
  int64_t blocks = 0;
  for (int group = 0; group < b.groups; group++) {
    const int last =
        b.prefill && call.spec->causal ? b.last_page - (b.groups - 1 - group) : b.last_page;
    const int from = b.prefill && group > 0 ? b.first_group_rows + (group - 1) * kPageTokens : 0;
    blocks += last - w.rows[from].first_key / kPageTokens + 1;
  }
  stats.blocks_considered += blocks;
  if (softmax) {
    stats.blocks_scored += blocks;
    stats.blocks_attended += blocks;
    FlashBlock<kType>(b, w, stats);
  } else {
    EntmaxBlock<kType>(b, w, stats);
  }
  for (int r = 0; r < b.rows; r++) {
    const int64_t batch_row = task.slice->first_row + b.token_begin + r % b.tokens;
    const int head = task.head_begin + r / b.tokens;
    __builtin_memcpy(call.out + batch_row * call.out_stride + int64_t{head} * call.spec->head_dim,
                     w.accumulator + int64_t{r} * call.spec->head_dim, call.spec->head_dim * 4);
  }
}

template <DataType kType>
void AttendTyped(const AttentionCall& call, const AttentionTask& task, Workspace& w) {
  Block b;
  b.call = &call;
  b.task = &task;
  b.biased = false;
  for (int head = task.head_begin; head < task.head_end; head++) {
    b.biased |= call.alibi_slope[head] > 0;
  }
  b.full_pages = (task.slice->context_tokens + task.slice->num_tokens) / kPageTokens;
  b.prefill = IsPrefill(*task.slice);
  const bool softmax = call.alpha[task.head_begin] == 1;
  w.tile_page = -1;
  w.expect_wide = false;
  if (!b.prefill) {
    b.token_begin = task.token_begin;
    b.tokens = task.token_end - task.token_begin;
    b.rows = (task.head_end - task.head_begin) * b.tokens;
    AttendBlock<kType>(b, softmax, w);
    return;
  }
  // Blocks end where the positions are a multiple of the statistics' blocks. Small ones suit short contexts, where their
  // rows share more of their supports, and biased heads, which see little beyond their diagonal.
  for (int token = task.token_begin; token < task.token_end;) {
    const int position = task.slice->context_tokens + token;
    const int most = softmax                                ? kFlashRows
                     : b.biased || position < kShortContext ? kPageTokens
                                                            : kSearchRows;
    const int next = token + most - position % most;
    b.token_begin = token;
    b.rows = (next < task.token_end ? next : task.token_end) - token;
    b.tokens = b.rows;
    AttendBlock<kType>(b, softmax, w);
    token += b.rows;
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

const Kernels kKernels = {kHasByteDot,        Attend,   AppendToken, RmsNormRow,
                          GatedActivationRow, RopeHead, ToBf16Row,   PutRow};

}  // namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE
