#include "kernels/cuda/decode_plan.h"

#include <algorithm>
#include <cstring>

#include "kernels/attention.h"
#include "kernels/check.h"

namespace tauserve::cuda {
namespace {

constexpr int kMinPiecePages = 8;       // one page a warp
constexpr int64_t kScorePages = 32768;  // of wide groups at a time: 64 MiB of scores

int64_t FirstPage(const DecodeGroup& g) { return g.first_key / kPageTokens; }
int64_t EndPage(const DecodeGroup& g) { return (g.end_key + kPageTokens - 1) / kPageTokens; }
int64_t Pages(const DecodeGroup& g) { return EndPage(g) - FirstPage(g); }
int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

void AppendGroups(const DecodePlanOptions& o, const Slice& slice, int slice_index,
                  std::vector<DecodeGroup>& groups) {
  const int heads_per_kv = o.num_heads / o.num_kv_heads;
  for (int token = 0; token < slice.num_tokens; token++) {
    DecodeGroup base;
    base.slice = slice_index;
    base.row = slice.first_row + token;
    base.position = slice.context_tokens + token;
    base.end_key = o.causal ? base.position + 1 : slice.context_tokens + slice.num_tokens;
    if (o.causal && o.sliding_window > 0) {
      base.first_key = std::max(0, base.end_key - o.sliding_window);
    }
    base.page_table = slice.first_page;
    for (int kv = 0; kv < o.num_kv_heads; kv++) {
      base.kv_head = kv;
      for (int softmax = 0; softmax < 2; softmax++) {
        DecodeGroup g = base;
        g.softmax = softmax;
        for (int h = kv * heads_per_kv; h < (kv + 1) * heads_per_kv; h++) {
          if ((o.heads[h].alpha == 1) != (softmax == 1)) continue;
          g.head[g.num_columns++] = static_cast<uint16_t>(h);
          g.biased |= o.causal && o.heads[h].alibi_slope != 0;
          if (g.num_columns == kDecodeColumns) {
            groups.push_back(g);
            g.num_columns = 0;
            g.biased = 0;
          }
        }
        if (g.num_columns > 0) groups.push_back(g);
      }
    }
  }
}

// The least pages a piece so that all pieces fit in `blocks`.
int64_t PiecePages(const std::vector<DecodeGroup>& groups, int blocks) {
  int64_t lo = kMinPiecePages;
  int64_t hi = kMinPiecePages;
  for (const DecodeGroup& g : groups) hi = std::max(hi, Pages(g));
  while (lo < hi) {
    const int64_t mid = (lo + hi) / 2;
    int64_t pieces = 0;
    for (const DecodeGroup& g : groups) pieces += CeilDiv(Pages(g), mid);
    if (pieces <= blocks) {
      hi = mid;
    } else {
      lo = mid + 1;
    }
  }
  return lo;
}

struct Cut {
  int block;
  int64_t first_page;
  int64_t end_page;
};

// One piece a block, none of more than `most` pages.
std::vector<std::vector<Cut>> CutEvenly(const std::vector<DecodeGroup>& groups, int64_t most) {
  std::vector<std::vector<Cut>> cuts;
  int block = 0;
  for (const DecodeGroup& g : groups) {
    const int64_t pieces = CeilDiv(Pages(g), most);
    std::vector<Cut>& out = cuts.emplace_back();
    for (int64_t i = 0; i < pieces; i++) {
      out.push_back({block++, FirstPage(g) + Pages(g) * i / pieces,
                     FirstPage(g) + Pages(g) * (i + 1) / pieces});
    }
  }
  return cuts;
}

// Equal contiguous shares of all pages; no cut that leaves less than a page a warp.
std::vector<std::vector<Cut>> CutContiguously(const std::vector<DecodeGroup>& groups, int blocks) {
  int64_t total = 0;
  for (const DecodeGroup& g : groups) total += Pages(g);
  std::vector<std::vector<Cut>> cuts;
  int block = 0;
  int64_t done = 0;
  for (const DecodeGroup& g : groups) {
    std::vector<Cut>& out = cuts.emplace_back();
    int64_t page = FirstPage(g);
    const int64_t end = EndPage(g);
    while (page < end) {
      int64_t room = total * (block + 1) / blocks - done;
      if (room < std::min<int64_t>(kMinPiecePages, end - page) && block + 1 < blocks) {
        block++;
        continue;
      }
      if (end - page - room < kMinPiecePages || block + 1 == blocks) room = end - page;
      const int64_t take = std::min(room, end - page);
      out.push_back({block, page, page + take});
      page += take;
      done += take;
    }
  }
  return cuts;
}

size_t Aligned(size_t bytes) { return (bytes + 15) / 16 * 16; }

size_t Bytes(size_t groups, size_t pieces) {
  return Aligned(sizeof(DecodeHeader)) + Aligned(sizeof(DecodePiece) * pieces) +
         Aligned(sizeof(DecodeGroup) * groups) + sizeof(DecodeCounters) * groups;
}

}  // namespace

int MaxDecodeGroups(const DecodePlanOptions& o, int rows) {
  int groups = 0;
  const int heads_per_kv = o.num_heads / o.num_kv_heads;
  for (int kv = 0; kv < o.num_kv_heads; kv++) {
    int softmax = 0;
    for (int h = kv * heads_per_kv; h < (kv + 1) * heads_per_kv; h++) {
      softmax += o.heads[h].alpha == 1;
    }
    groups += static_cast<int>(CeilDiv(softmax, kDecodeColumns) +
                               CeilDiv(heads_per_kv - softmax, kDecodeColumns));
  }
  return groups * rows;
}

DecodePlan MakeDecodePlan(const DecodePlanOptions& o, std::span<const Slice> slices) {
  TAUSERVE_CHECK(o.num_kv_heads > 0 && o.num_heads % o.num_kv_heads == 0, "heads a KV head");
  TAUSERVE_CHECK(static_cast<int>(o.heads.size()) == o.num_heads, "constants of every head");
  TAUSERVE_CHECK(o.num_blocks > 0, "a device has multiprocessors");
  DecodePlan plan;
  plan.num_blocks = std::min(o.num_blocks, kMaxDecodeBlocks);
  for (size_t i = 0; i < slices.size(); i++) {
    if (IsDecodeSlice(slices[i])) AppendGroups(o, slices[i], static_cast<int>(i), plan.groups);
  }
  plan.num_groups = static_cast<int>(plan.groups.size());
  plan.pieces.resize(plan.num_blocks);
  if (plan.groups.empty()) return plan;

  int64_t search_pages = 0, total_pages = 0, longest = CeilDiv(o.max_tokens, kPageTokens);
  for (const DecodeGroup& g : plan.groups) {
    longest = std::max(longest, Pages(g));
    total_pages += Pages(g);
    if (!g.softmax) {
      plan.num_search_groups++;
      search_pages += Pages(g);
    }
  }
  const int64_t all_pages = total_pages;
  if (o.max_rows > 0) total_pages = longest * MaxDecodeGroups(o, o.max_rows);
  plan.score_pages = std::max(longest, std::min(total_pages, kScorePages));
  plan.use_shadow = o.has_shadow && search_pages >= o.shadow_min_pages;

  // One piece a block merges soonest; where lengths differ much it leaves blocks idle.
  bool evenly = plan.num_groups <= plan.num_blocks;
  int64_t most = 0;
  if (evenly) {
    most = PiecePages(plan.groups, plan.num_blocks);
    evenly = most * plan.num_blocks <= all_pages * 6 / 5 + kMinPiecePages * plan.num_blocks;
  }
  const auto cuts =
      evenly ? CutEvenly(plan.groups, most) : CutContiguously(plan.groups, plan.num_blocks);
  std::vector<int> last(plan.num_blocks, -1);  // the block's last piece so far
  for (int i = 0; i < plan.num_groups; i++) {
    DecodeGroup& g = plan.groups[i];
    g.first_slot = plan.num_slots;
    g.num_pieces = static_cast<int>(cuts[i].size());
    plan.num_slots += g.num_pieces;
    for (int j = 0; j < g.num_pieces; j++) {
      const Cut& cut = cuts[i][j];
      DecodePiece piece;
      piece.group = g;
      piece.group_index = i;
      piece.index = j;
      piece.first_page = static_cast<int32_t>(cut.first_page);
      piece.end_page = static_cast<int32_t>(cut.end_page);
      int at = cut.block;
      if (last[cut.block] >= 0) {
        at = static_cast<int>(plan.pieces.size());
        plan.pieces[last[cut.block]].next = at;
        plan.pieces.emplace_back();
      }
      plan.pieces[at] = piece;
      last[cut.block] = at;
    }
  }
  plan.slot_capacity = plan.num_slots;
  if (o.max_rows > 0) {
    plan.slot_capacity = MaxDecodeGroups(o, o.max_rows) + plan.num_blocks;
    TAUSERVE_CHECK(plan.num_slots <= plan.slot_capacity, "more decode rows than max_rows");
  }
  return plan;
}

size_t DecodePlan::DeviceBytes() const { return Bytes(groups.size(), pieces.size()); }

size_t DecodePlan::MaxDeviceBytes(int max_groups) {
  return Bytes(max_groups, max_groups + 2 * kMaxDecodeBlocks);
}

size_t DecodePlan::PiecesOffset() { return Aligned(sizeof(DecodeHeader)); }

void DecodePlan::Serialize(std::byte* out) const {
  std::memset(out, 0, DeviceBytes());
  const size_t pieces_offset = PiecesOffset();
  DecodeHeader header;
  header.num_groups = num_groups;
  header.num_search_groups = num_search_groups;
  header.groups_offset =
      static_cast<uint32_t>(pieces_offset + Aligned(sizeof(DecodePiece) * pieces.size()));
  header.counters_offset =
      header.groups_offset + static_cast<uint32_t>(Aligned(sizeof(DecodeGroup) * groups.size()));
  std::memcpy(out, &header, sizeof(header));
  for (size_t i = 0; i < pieces.size(); i++) {
    DecodePiece piece = pieces[i];
    piece.counters_offset =
        header.counters_offset + static_cast<uint32_t>(sizeof(DecodeCounters)) * piece.group_index;
    std::memcpy(out + pieces_offset + sizeof(DecodePiece) * i, &piece, sizeof(piece));
  }
  if (groups.empty()) return;
  std::memcpy(out + header.groups_offset, groups.data(), sizeof(DecodeGroup) * groups.size());
}

}  // namespace tauserve::cuda
