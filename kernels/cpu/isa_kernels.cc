// Compiled once for each instruction set, with its flags, TAUSERVE_ISA_NAMESPACE and TAUSERVE_ISA_LEVEL.
#include "kernels/cpu/block_rows.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/entmax_block.h"
#include "kernels/cpu/flash_block.h"
#include "kernels/cpu/gradient_block.h"
#include "kernels/cpu/kernels.h"

namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE {
namespace {

template <DataType kType>
void AttendBlock(Block& b, bool softmax, Workspace& w) {
  const AttentionCall& call = *b.call;
  const AttentionTask& task = *b.task;
  StartBlock<kType>(b, softmax, w);
  AttentionStats& stats = w.stats[task.slice_index];
  const int64_t pages = b.last_page - b.first_page + 1;
  stats.pages_considered += pages;
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
    __builtin_memcpy(call.out + batch_row * call.out_stride + head * call.out_head_stride,
                     w.accumulator + int64_t{r} * call.spec->head_dim, call.spec->head_dim * 4);
    if (call.tau) call.tau[head * call.tau_head_stride + batch_row] = w.rows[r].tau;
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

const Kernels kKernels = {kHasByteDot,        Attend,   AttendGradients, AppendToken, RmsNormRow,
                          GatedActivationRow, RopeHead, ToBf16Row,       PutRow};

}  // namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE
