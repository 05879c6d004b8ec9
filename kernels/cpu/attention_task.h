// What the compiled-per-instruction-set kernels work on: the layout of the paged cache, one unit of attention work, and
// a worker's memory. Plain structs, so that the kernel sources need nothing of the standard library.
#ifndef TAUSERVE_KERNELS_CPU_ATTENTION_TASK_H_
#define TAUSERVE_KERNELS_CPU_ATTENTION_TASK_H_

#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"
#include "kernels/tensor.h"

namespace tauserve::cpu {

// One layer of the cache. A page holds, for each KV head, a key block and a value block of kPageTokens * head_dim
// elements each:
//   float32   keys [head_dim][64],       values [64][head_dim]
//   bfloat16  keys [head_dim / 2][64][2], values [32][head_dim][2]
// so that one register holds 16 tokens' (pairs of) key dims, or 16 dims of (pairs of) values.
struct LayerKv {
  std::byte* data = nullptr;
  float* key_norm = nullptr;  // [pages][kv_heads]: upper bound of the norms of the page's keys
  DataType type = DataType::kFloat32;
  int num_kv_heads = 0;
  int head_dim = 0;

  size_t block_bytes() const { return size_t{kPageTokens} * head_dim * SizeOf(type); }
  std::byte* keys(PageId page, int kv_head) const {
    return data + (size_t(page) * num_kv_heads + kv_head) * 2 * block_bytes();
  }
  std::byte* values(PageId page, int kv_head) const { return keys(page, kv_head) + block_bytes(); }
  float& norm(PageId page, int kv_head) const {
    return key_norm[size_t(page) * num_kv_heads + kv_head];
  }
};

inline constexpr int kTileRows = 6;    // query rows of a microkernel tile
inline constexpr int kBlockRows = 64;  // query rows of a task, at most
inline constexpr int kPaddedRows = (kBlockRows + kTileRows - 1) / kTileRows * kTileRows;
// Candidates a row keeps; a row that needs more takes the dense path. 32 kB of scores and indices a row.
inline constexpr int kCandidates = 4096;

// Query heads [head_begin, head_end) of one KV head at tokens [token_begin, token_end) of a slice (counted from its
// first), at most kBlockRows rows. The heads are all softmax or all entmax.
struct AttentionTask {
  const SequenceSlice* slice = nullptr;
  int slice_index = 0;
  int kv_head = 0;
  int head_begin = 0;
  int head_end = 0;
  int token_begin = 0;
  int token_end = 0;
  int64_t cost = 0;  // relative, for ordering
};

// What all tasks of one attention call share.
struct AttentionCall {
  const AttentionSpec* spec = nullptr;
  LayerKv kv;
  const float* alpha = nullptr;        // [num_heads]
  const float* alibi_slope = nullptr;  // [num_heads]
  const float* q = nullptr;            // row r, head h at q + r * q_stride + h * head_dim
  int64_t q_stride = 0;
  const float* query_scale = nullptr;  // [rows][num_heads], or null
  int64_t query_scale_stride = 0;
  float* out = nullptr;
  int64_t out_stride = 0;
};

// Per row of a task's block. Scores in here are raw: q . k + bias / (scale * query_scale).
struct RowState {
  float factor;  // raw score -> scaled score s: (alpha - 1) * scale * query_scale, > 0
  float slope;   // ALiBi in raw units
  float alpha;
  float q_norm;  // upper bound
  int32_t position;
  int32_t first_key;  // visible keys are [first_key, position]
  float max;
  int32_t count;  // candidates
  int32_t next;   // count at which the floor is raised
  bool wide;
};

// A worker's memory, allocated once.
struct Workspace {
  RowState rows[kPaddedRows];
  float floor
      [kPaddedRows];  // a key whose raw score is not above it has weight zero; +inf: row needs no keys
  float* q = nullptr;      // [kPaddedRows][head_dim] float, or pairs of bfloat16 in its first half
  float* score = nullptr;  // [kBlockRows][kCandidates]: candidates' raw scores
  int32_t* key = nullptr;  // [kBlockRows][kCandidates]: their positions
  float* dense = nullptr;  // [kTileRows][max_keys]: all scores of wide rows
  float* accumulator = nullptr;     // [kPaddedRows][head_dim]
  uint64_t* attended = nullptr;     // bit a page: some row of the current head gives it weight
  int64_t max_keys = 0;             // a multiple of kPageTokens
  AttentionStats* stats = nullptr;  // [slices of the step]
};

}  // namespace tauserve::cpu

#endif  // TAUSERVE_KERNELS_CPU_ATTENTION_TASK_H_
