// How a step's decode rows are spread over the blocks of the decode kernel. Made once a step on the host, uploaded once
// and reused by every layer with the same heads; plain data, no CUDA needed.
//
// A group is one query row with up to kDecodeColumns heads of one KV head (all of one kind: entmax or softmax); its
// keys are read once for all of them. A piece is a range of a group's pages that one block reads. Every block gets one
// piece, the longest of them as short as can be, where that keeps the blocks busy; else blocks get equal contiguous
// shares of all pages.
#ifndef TAUSERVE_KERNELS_CUDA_DECODE_PLAN_H_
#define TAUSERVE_KERNELS_CUDA_DECODE_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/slice.h"

namespace tauserve::cuda {

inline constexpr int kDecodeColumns = 8;    // query heads searched together
inline constexpr int kMaxDecodeTokens = 4;  // slices with more new tokens are prefill's
inline constexpr int kMaxDecodeBlocks = 256;

struct DecodeGroup {
  int32_t slice = 0;
  int32_t row = 0;       // of q and out
  int32_t position = 0;  // of the query
  int32_t kv_head = 0;
  int32_t num_columns = 0;
  int32_t softmax = 0;    // 1: alpha == 1 in every column
  int32_t first_key = 0;  // visible keys [first_key, end_key)
  int32_t end_key = 0;
  int32_t page_table = 0;  // the slice's first entry of AttentionArgs::page_table
  int32_t first_slot =
      0;  // its pieces' slots of the workspace: [first_slot, first_slot + num_pieces)
  int32_t num_pieces = 0;
  int32_t biased = 0;  // 1: a column has an ALiBi slope
  uint16_t head[kDecodeColumns] = {};
};

struct DecodePiece {
  DecodeGroup group;
  int32_t group_index = 0;
  int32_t index = 0;       // within the group
  int32_t first_page = 0;  // pages [first_page, end_page) of the sequence; empty = no work
  int32_t end_page = 0;
  int32_t next = -1;             // the same block's next piece
  uint32_t counters_offset = 0;  // of its group's DecodeCounters, bytes from the header
};

// A group's counters.
struct DecodeCounters {
  uint32_t arrived = 0;  // pieces
  uint32_t wide = 0;     // 1: candidates outgrew a list
};

// At the start of the uploaded buffer; pieces, groups and the groups' counters follow. All counters are zero when
// uploaded, and every launch leaves them zero.
struct DecodeHeader {
  uint64_t progress =
      0;  // search groups whose candidates are merged; wide ones among them times 2^32
  uint32_t exited = 0;  // blocks
  uint32_t barrier = 0;
  int32_t num_groups = 0;
  int32_t num_search_groups = 0;
  uint32_t groups_offset = 0;  // bytes from the header
  uint32_t counters_offset = 0;
};

struct DecodePlanOptions {
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int sliding_window = 0;  // 0 = none
  bool causal = true;
  std::span<const Head> heads;  // [num_heads]
  bool has_shadow = false;      // the cache keeps int8 keys
  int num_blocks = 0;           // multiprocessors of the device
  // The int8 filter costs fixed time (rescoring) and halves the bytes: used from this many pages to search on, all
  // sequences and KV heads together.
  int64_t shadow_min_pages = 4096;
  // Where a captured launch is replayed with other plans, their workspaces must be laid out alike: the most decode rows
  // of a step and tokens of a sequence. 0 = those of this plan.
  int max_rows = 0;
  int64_t max_tokens = 0;
};

struct DecodePlan {
  int num_blocks = 0;
  bool use_shadow = false;
  int num_groups = 0;
  int num_search_groups = 0;
  int num_slots = 0;        // pieces with work
  int slot_capacity = 0;    // the workspace's
  int64_t score_pages = 0;  // pages of wide groups that the workspace holds scores of, at least
  std::vector<DecodeGroup> groups;  // [num_groups]
  std::vector<DecodePiece> pieces;  // block b begins with piece b

  bool empty() const { return num_groups == 0; }
  // Size of the device's copy; the second, of the largest plan of `max_groups` groups.
  size_t DeviceBytes() const;
  static size_t MaxDeviceBytes(int max_groups);
  static size_t PiecesOffset();          // of the pieces in it
  void Serialize(std::byte* out) const;  // DeviceBytes() bytes
};

// Whether a slice is the decode kernel's.
inline bool IsDecodeSlice(const Slice& slice) {
  return slice.num_tokens >= 1 && slice.num_tokens <= kMaxDecodeTokens;
}

// The most groups that `rows` decode rows make.
int MaxDecodeGroups(const DecodePlanOptions& options, int rows);

// Plans the decode slices among `slices`; others are left to other kernels.
DecodePlan MakeDecodePlan(const DecodePlanOptions& options, std::span<const Slice> slices);

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_DECODE_PLAN_H_
