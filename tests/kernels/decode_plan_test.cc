// The decode kernel's plan: every visible page of every group in exactly one piece, blocks equally loaded, the uploaded
// bytes what the kernel reads.
#include "kernels/cuda/decode_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/attention.h"

namespace tauserve::cuda {
namespace {

std::vector<Head> HeadsOf(int n, std::vector<float> alpha = {1.5f}) {
  std::vector<Head> heads(n);
  for (int h = 0; h < n; h++) heads[h].alpha = alpha[h % alpha.size()];
  return heads;
}

DecodePlanOptions Options(const std::vector<Head>& heads, int num_kv_heads, int num_blocks) {
  DecodePlanOptions o;
  o.num_heads = static_cast<int>(heads.size());
  o.num_kv_heads = num_kv_heads;
  o.head_dim = 128;
  o.heads = heads;
  o.num_blocks = num_blocks;
  return o;
}

std::vector<Slice> SlicesOf(const std::vector<int>& context) {
  std::vector<Slice> slices;
  int row = 0, page = 0;
  for (const int n : context) {
    slices.push_back({row++, 1, n, page});
    page += n / kPageTokens + 1;
  }
  return slices;
}

int64_t GroupPages(const DecodeGroup& g) {
  return (g.end_key + kPageTokens - 1) / kPageTokens - g.first_key / kPageTokens;
}

// Pages of each block; fails where a page of a group is not in exactly one piece.
std::vector<int64_t> BlockPages(const DecodePlan& plan) {
  std::vector<std::vector<int>> covered;
  for (const DecodeGroup& g : plan.groups) covered.emplace_back(GroupPages(g));
  std::vector<int> slots(plan.num_slots);
  std::vector<int64_t> load(plan.num_blocks);
  for (int b = 0; b < plan.num_blocks; b++) {
    for (int at = b; at >= 0; at = plan.pieces[at].next) {
      const DecodePiece& piece = plan.pieces[at];
      if (piece.end_page == piece.first_page) continue;
      const DecodeGroup& g = plan.groups[piece.group_index];
      EXPECT_EQ(0, std::memcmp(&g, &piece.group, sizeof(g)));
      EXPECT_LT(piece.index, g.num_pieces);
      slots[g.first_slot + piece.index]++;
      load[b] += piece.end_page - piece.first_page;
      for (int p = piece.first_page; p < piece.end_page; p++) {
        covered[piece.group_index].at(p - g.first_key / kPageTokens)++;
      }
    }
  }
  for (const auto& group : covered) {
    EXPECT_TRUE(std::all_of(group.begin(), group.end(), [](int n) { return n == 1; }));
  }
  EXPECT_TRUE(std::all_of(slots.begin(), slots.end(), [](int n) { return n == 1; }));
  return load;
}

TEST(DecodePlan, OneSequenceGetsAllBlocks) {
  const auto heads = HeadsOf(32);
  const auto slices = SlicesOf({32767});
  const DecodePlan plan = MakeDecodePlan(Options(heads, 8, 132), slices);
  EXPECT_EQ(plan.num_groups, 8);
  const auto load = BlockPages(plan);
  EXPECT_EQ(*std::max_element(load.begin(), load.end()), 32);  // 16 of 132 blocks a KV head
  EXPECT_FALSE(plan.use_shadow);
}

TEST(DecodePlan, ShortSequencesKeepAPageAWarp) {
  const auto heads = HeadsOf(32);
  const auto slices = SlicesOf({8191});
  const DecodePlan plan = MakeDecodePlan(Options(heads, 8, 132), slices);
  for (const DecodeGroup& g : plan.groups) EXPECT_EQ(g.num_pieces, 16);
}

TEST(DecodePlan, ShadowWhereThereIsEnoughToSearch) {
  const auto heads = HeadsOf(32);
  auto o = Options(heads, 8, 132);
  o.has_shadow = true;
  EXPECT_FALSE(MakeDecodePlan(o, SlicesOf({8191})).use_shadow);
  EXPECT_TRUE(MakeDecodePlan(o, SlicesOf({32767})).use_shadow);
  EXPECT_TRUE(MakeDecodePlan(o, SlicesOf(std::vector<int>(16, 8191))).use_shadow);
  const auto softmax = HeadsOf(32, {1});
  o.heads = softmax;
  EXPECT_FALSE(MakeDecodePlan(o, SlicesOf({1 << 20})).use_shadow);
}

TEST(DecodePlan, RandomBatches) {
  std::mt19937 rng(3);
  for (int i = 0; i < 300; i++) {
    const int kv = 1 << rng() % 4, group = 1 + rng() % 20;
    const auto heads =
        HeadsOf(kv * group, i % 3 ? std::vector<float>{1.5f} : std::vector<float>{1, 1.5f, 2});
    std::vector<int> context(1 + rng() % (i % 2 ? 8 : 300));
    for (int& n : context) n = rng() % (rng() % 4 ? 2000 : 100000);
    auto slices = SlicesOf(context);
    auto o = Options(heads, kv, 1 + rng() % 256);
    o.sliding_window = i % 5 ? 0 : 500;
    const DecodePlan plan = MakeDecodePlan(o, slices);
    const auto load = BlockPages(plan);
    int64_t total = 0, longest = 0;
    int columns = 0;
    for (const DecodeGroup& g : plan.groups) {
      total += GroupPages(g);
      longest = std::max(longest, GroupPages(g));
      columns += g.num_columns;
      EXPECT_LE(g.num_columns, kDecodeColumns);
      EXPECT_EQ(g.end_key, g.position + 1);
      const int window = o.sliding_window ? o.sliding_window : g.end_key;
      EXPECT_EQ(g.first_key, std::max(0, g.end_key - window));
    }
    EXPECT_EQ(columns, static_cast<int>(heads.size() * context.size()));
    EXPECT_LE(plan.num_groups, MaxDecodeGroups(o, static_cast<int>(context.size())));
    EXPECT_LE(plan.num_slots, plan.num_groups + plan.num_blocks);
    EXPECT_LE(plan.DeviceBytes(), DecodePlan::MaxDeviceBytes(plan.num_groups));
    EXPECT_GE(plan.score_pages, longest);
    const int64_t most = *std::max_element(load.begin(), load.end());
    EXPECT_LE(most, total / plan.num_blocks * 6 / 5 + 2 * 8 + 1);
  }
}

TEST(DecodePlan, LeavesPrefillSlicesOut) {
  const auto heads = HeadsOf(8);
  std::vector<Slice> slices = {{0, 1, 100, 0}, {1, 64, 0, 2}, {65, 4, 60, 3}};
  const DecodePlan plan = MakeDecodePlan(Options(heads, 2, 100), slices);
  EXPECT_EQ(plan.num_groups, 2 * (1 + 4));
  for (const DecodeGroup& g : plan.groups) EXPECT_NE(g.slice, 1);
  EXPECT_EQ(plan.groups.back().row, 68);
  EXPECT_EQ(plan.groups.back().end_key, 64);
}

TEST(DecodePlan, MaximaFixTheWorkspace) {
  const auto heads = HeadsOf(32);
  auto o = Options(heads, 8, 132);
  o.max_rows = 20;
  o.max_tokens = 100000;
  const DecodePlan one = MakeDecodePlan(o, SlicesOf({5}));
  const DecodePlan many = MakeDecodePlan(o, SlicesOf(std::vector<int>(20, 99999)));
  EXPECT_EQ(one.slot_capacity, many.slot_capacity);
  EXPECT_EQ(one.score_pages, many.score_pages);
}

TEST(DecodePlan, Serializes) {
  const auto heads = HeadsOf(8);
  const DecodePlan plan = MakeDecodePlan(Options(heads, 2, 4), SlicesOf({100, 5000, 7}));
  std::vector<std::byte> bytes(plan.DeviceBytes());
  plan.Serialize(bytes.data());
  DecodeHeader header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  EXPECT_EQ(header.num_groups, 6);
  EXPECT_EQ(header.num_search_groups, 6);
  for (size_t i = 0; i < plan.pieces.size(); i++) {
    DecodePiece piece;
    std::memcpy(&piece, bytes.data() + DecodePlan::PiecesOffset() + sizeof(piece) * i,
                sizeof(piece));
    EXPECT_EQ(piece.counters_offset,
              header.counters_offset + sizeof(DecodeCounters) * piece.group_index);
    EXPECT_EQ(piece.end_page, plan.pieces[i].end_page);
    EXPECT_EQ(piece.next, plan.pieces[i].next);
  }
  EXPECT_EQ(0, std::memcmp(bytes.data() + header.groups_offset, plan.groups.data(),
                           sizeof(DecodeGroup) * plan.groups.size()));
  for (size_t i = header.counters_offset; i < bytes.size(); i++) EXPECT_EQ(bytes[i], std::byte{0});
  EXPECT_EQ(bytes.size() - header.counters_offset, 6 * sizeof(DecodeCounters));
}

TEST(DecodePlan, NothingToDo) {
  const auto heads = HeadsOf(8);
  const DecodePlan plan = MakeDecodePlan(Options(heads, 2, 4), {});
  EXPECT_TRUE(plan.empty());
  EXPECT_EQ(plan.pieces.size(), 4u);
}

}  // namespace
}  // namespace tauserve::cuda
