// What the compiled-per-instruction-set kernels work on: the layout of the paged cache, one unit of attention work, and
// a worker's memory. Plain structs, so that the kernel sources need nothing of the standard library.
#ifndef TAUSERVE_KERNELS_CPU_ATTENTION_TASK_H_
#define TAUSERVE_KERNELS_CPU_ATTENTION_TASK_H_

#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"
#include "kernels/tensor.h"

namespace tauserve::cpu {

// What is kept of a page beside its keys and values, for each KV head. The shadow's bounds hold once the page is full.
struct PageSummary {
  float key_norm = 0;      // upper bound of ||k||; infinite where keys are not numbers
  float prefix_norm = 0;   // the same for this page and all that come before it in its sequence
  float shadow_scale = 0;  // k ~ scale * (shadow - 128)
  float shadow_error = 0;  // upper bound of ||k - scale * (shadow - 128)||
  float shadow_norm = 0;   // upper bound of ||scale * (shadow - 128)||
};

// One layer of the cache. A page holds, for each KV head, keys [64][head_dim], then values [64][head_dim], then, where
// the instruction set can use it, a shadow of the keys in unsigned bytes, [head_dim / 4][64][4].
struct LayerKv {
  std::byte* data = nullptr;
  PageSummary* summaries = nullptr;  // [pages][kv_heads]
  DataType type = DataType::kFloat32;
  int num_kv_heads = 0;
  int head_dim = 0;
  bool has_shadow = false;

  size_t row_bytes() const { return size_t(head_dim) * SizeOf(type); }
  size_t block_bytes() const { return kPageTokens * row_bytes(); }
  size_t shadow_bytes() const { return has_shadow ? size_t{kPageTokens} * head_dim : 0; }
  std::byte* keys(PageId page, int kv_head) const {
    return data + (size_t(page) * num_kv_heads + kv_head) * (2 * block_bytes() + shadow_bytes());
  }
  std::byte* values(PageId page, int kv_head) const { return keys(page, kv_head) + block_bytes(); }
  uint8_t* shadow(PageId page, int kv_head) const {
    return reinterpret_cast<uint8_t*>(keys(page, kv_head) + 2 * block_bytes());
  }
  PageSummary& summary(PageId page, int kv_head) const {
    return summaries[size_t(page) * num_kv_heads + kv_head];
  }
};

inline constexpr int kTileRows = 6;      // query rows of a microkernel tile
inline constexpr int kSearchRows = 128;  // query rows that are searched together, at most
inline constexpr int kShortContext =
    8192;  // positions before it are searched in blocks of a page's rows
inline constexpr int kFlashRows = 192;  // the same of softmax: whole tiles
inline constexpr int kBlockRows = kFlashRows > kSearchRows ? kFlashRows : kSearchRows;
inline constexpr int kPaddedRows = (kBlockRows + kTileRows - 1) / kTileRows * kTileRows;
// Slices with at least so many tokens are prefilled head by head; below, the query heads of a KV head go together.
inline constexpr int kPrefillTokens = 16;
inline bool IsPrefill(const SequenceSlice& slice) { return slice.num_tokens >= kPrefillTokens; }
inline constexpr int kGroupRows = 64;  // rows of such a task, at most
// Hits a row keeps, 8 bytes each; a row with more takes the dense path.
inline constexpr int kMaxHits = 16384;
// Hits that a row keeps however few keys it sees, and the share of its keys from which the dense path is faster: there a
// key costs 2 to 3 ns, a hit that is scored and gathered by itself about 25.
inline constexpr int kSparseHits = 4096;
inline constexpr int kDenseShare = 8;
// Rows lie an odd number of cache lines apart, or those of a block would fall into a few sets of the cache.
inline constexpr int kHitStride = kMaxHits + 48;
// Keys that are scored for all rows of a block before the search, at most.
inline constexpr int kMaxColumns = 3072;
inline constexpr int kColumnStride = kMaxColumns + 16;
// Blocks of the statistics (64 queries of a head) that a block of rows touches, at most.
inline constexpr int kMaxGroups = kBlockRows / kPageTokens + 1;

// Query heads [head_begin, head_end) of one KV head at tokens [token_begin, token_end) of a slice (counted from its
// first). Several heads: at most kGroupRows rows. One head: any number of tokens, worked off in blocks of kBlockRows.
// The heads are all softmax or all entmax.
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
  const float* q = nullptr;            // row r, head h at q + r * q_stride + h * q_head_stride
  int64_t q_stride = 0;
  int64_t q_head_stride = 0;
  const float* query_scale = nullptr;  // [rows][num_heads], or null
  int64_t query_scale_stride = 0;
  float* out = nullptr;  // as q
  int64_t out_stride = 0;
  int64_t out_head_stride = 0;
  float* tau =
      nullptr;  // of row r, head h at tau + h * tau_head_stride + r (kernels/attention.h); or null
  int64_t tau_head_stride = 0;
};

// What the gradients of one attention call share. `forward` has the same inputs, and tau as the forward pass left it.
struct GradientCall {
  AttentionCall forward;
  const float* dout = nullptr;  // strides as of forward.q
  int64_t dout_stride = 0;
  int64_t dout_head_stride = 0;
  float* dq = nullptr;
  int64_t dq_stride = 0;
  int64_t dq_head_stride = 0;
};

// Rows of one KV head, any number of heads and tokens, and what they add to its keys' and values' gradients.
struct GradientTask {
  AttentionTask rows;
  float* dk = nullptr;  // [pages of the sequence][64][head_dim], added to
  float* dv = nullptr;
};

// Per row of a task's block. Scores in here are raw: q . k + bias / (scale * query_scale).
struct RowState {
  float factor;  // raw score -> scaled score s: (alpha - 1) * scale * query_scale, > 0
  float alpha;
  int32_t position;
  int32_t first_key;  // visible keys are [first_key, position]
  float max;
  float column_max;  // of the columns alone
  float slack;  // hits' scores are at most so far below the true ones; 0: they are the true ones
  float gap;    // u of entmax/weight.h, once solved
  float tau;    // kernels/attention.h, once solved
  float normalize;         // 1 / sum of weights
  int32_t count;           // hits of the search; once solved, those with weight
  int32_t column_support;  // columns with weight, once solved
  int32_t next;            // count at which the floor is raised
  int32_t raised;          // count when it last was
  int32_t most_hits;       // count from which the row is wide
  bool wide;
};

// The queries of a block in the forms that the kernels read.
struct QueryBlock {
  float* rows = nullptr;  // [kPaddedRows][head_dim]
  uint32_t* pairs =
      nullptr;  // the same as pairs of bfloat16, where the instruction set multiplies them
  int8_t* bytes = nullptr;  // [kPaddedRows][head_dim], rows ~ bytes / inverse_scale
  // Arrays of the rows, padded so that whole vectors can be read.
  float norm[kPaddedRows + 16] = {};   // upper bound of ||q||
  float error[kPaddedRows + 16] = {};  // upper bound of ||q - bytes / inverse_scale||
  float scale[kPaddedRows + 16] = {};  // of the bytes
  float inverse_scale[kPaddedRows + 16] = {};
  int32_t byte_offset[kPaddedRows + 16] = {};  // 128 * sum of the bytes
  float slope[kPaddedRows + 16] = {};          // ALiBi in raw units
  float position[kPaddedRows + 16] = {};
  // A key whose raw score is not above it has weight zero; +inf: the row needs no keys.
  float floor[kPaddedRows + 16] = {};
  // For sums of byte products with the page at hand: the floor, what one is worth, and how far from true it may be.
  int32_t byte_floor[kPaddedRows + 16] = {};
  float byte_unit[kPaddedRows + 16] = {};
  float byte_error[kPaddedRows + 16] = {};
};

// Keys that are scored for all rows of a block before the search: whole pages, then single keys.
struct DenseColumns {
  int count = 0;
  int pages = 0;                  // whole pages, columns [0, 64 * pages)
  int32_t* page = nullptr;        // [kMaxColumns / 64]
  int32_t* key = nullptr;         // [kMaxColumns + 64]: position of each column's key
  float* score = nullptr;         // [kPaddedRows][kColumnStride]: raw scores, later weights
  uint64_t* taken = nullptr;      // bit k of word p: key k of page p is a column
  int32_t* supporters = nullptr;  // [kMaxColumns]: sampled rows that give the column weight
  // [kMaxGroups][kMaxColumns / 64]: bit a column: a row of the statistics' block gives it weight
  uint64_t* attended = nullptr;

  float* row(int r) const { return score + int64_t{r} * kColumnStride; }
  int padded() const { return (count + kPageTokens - 1) / kPageTokens * kPageTokens; }
};

// A worker's memory, allocated once.
struct Workspace {
  RowState rows[kPaddedRows];
  QueryBlock q;
  DenseColumns columns;
  float* score = nullptr;        // [kSearchRows][kHitStride]: hits' raw scores, later weights
  int32_t* key = nullptr;        // [kSearchRows][kHitStride]: their positions
  float* tile = nullptr;         // [head_dim][64]: keys of a page as the microkernel reads them
  int tile_page = -1;            // whose; -1: none
  float* values = nullptr;       // [64][head_dim]: values as floats
  float* dense = nullptr;        // [kDenseTiles * kTileRows][max_keys]: all scores of wide rows
  float* dense_dp = nullptr;     // the same of dO . V, for gradients
  float* dout = nullptr;         // [kPaddedRows][head_dim]: the block's rows of dO, for gradients
  float* accumulator = nullptr;  // [kPaddedRows][head_dim]
  uint64_t* attended =
      nullptr;  // [kMaxGroups][words]: bit a page: a row of the statistics' block gives it weight
  uint8_t* supporters = nullptr;  // [max_keys]: sampled rows of the block that give a key weight
  int32_t* guess =
      nullptr;  // [max_keys]: keys that the last block's rows supported, best guess for the next
  int guess_count = 0;
  bool expect_wide = false;  // most rows of the last block were wide: the next one is not searched
  int64_t max_keys = 0;      // a multiple of kPageTokens
  AttentionStats* stats = nullptr;  // [slices of the step]

  float* hit_scores(int r) const { return score + int64_t{r} * kHitStride; }
  int32_t* hit_keys(int r) const { return key + int64_t{r} * kHitStride; }
};

inline constexpr int kDenseTiles = 4;  // tiles of wide rows that are finished together, at most

}  // namespace tauserve::cpu

#endif  // TAUSERVE_KERNELS_CPU_ATTENTION_TASK_H_
