#include "server/cache/prefix_index.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace tauserve {
namespace {

std::vector<int32_t> Tokens(int n, int first = 0) {
  std::vector<int32_t> tokens(n);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

class PrefixIndexTest : public testing::Test {
 protected:
  // Makes all full pages of `tokens` known; returns the pages, still in use.
  std::vector<PageRef> Insert(const std::string& salt, const std::vector<int32_t>& tokens) {
    std::vector<PageRef> pages;
    PrefixIndex::PrefixId prefix = PrefixIndex::kRoot;
    for (size_t at = 0; at + kPageTokens <= tokens.size(); at += kPageTokens) {
      pages.push_back(pool_.Allocate());
      prefix = index_.Add(salt, prefix, absl::MakeConstSpan(tokens).subspan(at, kPageTokens),
                          pages.back().id());
    }
    return pages;
  }
  size_t Found(const std::string& salt, const std::vector<int32_t>& tokens) {
    return index_.Find(salt, tokens).pages.size();
  }
  PagePool pool_{8};
  PrefixIndex index_{&pool_};
};

TEST_F(PrefixIndexTest, FindsTheLongestPrefixInWholePages) {
  Insert("", Tokens(200));
  EXPECT_EQ(Found("", Tokens(200)), 3u);
  EXPECT_EQ(Found("", Tokens(127)), 1u);
  EXPECT_EQ(Found("", Tokens(63)), 0u);
  std::vector<int32_t> other = Tokens(200);
  other[100] = 7;
  EXPECT_EQ(Found("", other), 1u);
  EXPECT_EQ(Found("", Tokens(200, 1)), 0u);
}

TEST_F(PrefixIndexTest, SamePageBehindAnotherPrefixIsAnotherEntry) {
  Insert("", Tokens(128));
  std::vector<int32_t> other = Tokens(128, 64);  // its first page equals the known second page
  EXPECT_EQ(Found("", other), 0u);
}

TEST_F(PrefixIndexTest, SaltsDoNotMix) {
  Insert("a", Tokens(128));
  EXPECT_EQ(Found("a", Tokens(128)), 2u);
  EXPECT_EQ(Found("b", Tokens(128)), 0u);
  EXPECT_EQ(Found("", Tokens(128)), 0u);
}

TEST_F(PrefixIndexTest, PagesSurviveTheirRequestAndGoWhenSpaceIsNeeded) {
  { auto pages = Insert("", Tokens(128)); }
  EXPECT_EQ(pool_.free_pages(), 8);
  EXPECT_EQ(Found("", Tokens(128)), 2u);
  std::vector<PageRef> all;
  for (int i = 0; i < 8; i++) all.push_back(pool_.Allocate());
  EXPECT_EQ(Found("", Tokens(128)), 0u);
}

TEST_F(PrefixIndexTest, TheFirstPageKnownStays) {
  auto first = Insert("", Tokens(64));
  auto second = Insert("", Tokens(64));
  const PrefixIndex::Match match = index_.Find("", Tokens(64));
  ASSERT_EQ(match.pages.size(), 1u);
  EXPECT_EQ(match.pages[0].id(), first[0].id());
}

TEST_F(PrefixIndexTest, ClearedPagesAreForgotten) {
  { auto pages = Insert("", Tokens(128)); }
  EXPECT_EQ(pool_.DropKept(), 2);
  EXPECT_EQ(Found("", Tokens(128)), 0u);
}

// Requests come and go in a pool too small for them; every page found must hold what is asked for, the whole prefix
// and the salt included, and after the last request everything is free.
TEST(PrefixIndexPropertyTest, NeverServesAnotherPrefixsPage) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  PagePool pool(12);
  PrefixIndex index(&pool);
  std::vector<std::pair<std::string, std::vector<int32_t>>> content(
      12);  // salt, tokens up to there
  std::vector<std::vector<PageRef>> running;
  int found = 0;
  for (int i = 0; i < 20000; i++) {
    if (!running.empty() && random() % 2 == 0) {
      std::swap(running[random() % running.size()], running.back());
      while (!running.back().empty()) running.back().pop_back();
      running.pop_back();
    }
    if (random() % 500 == 0) pool.DropKept();
    const std::string salt(1, "ab"[random() % 2]);
    std::vector<int32_t> tokens((1 + random() % 4) * kPageTokens, 0);
    // Pages differ in one token only, and repeat often.
    for (size_t at = 0; at < tokens.size(); at += kPageTokens) tokens[at + 63] = random() % 3;
    PrefixIndex::Match match = index.Find(salt, tokens);
    std::vector<PageRef> pages = std::move(match.pages);
    for (size_t p = 0; p < pages.size(); p++) {
      const std::vector<int32_t> prefix(tokens.begin(), tokens.begin() + (p + 1) * kPageTokens);
      ASSERT_EQ(content[pages[p].id()], std::make_pair(salt, prefix));
      found++;
    }
    for (size_t p = pages.size(); p < tokens.size() / kPageTokens; p++) {
      PageRef page = pool.Allocate();
      if (page.empty()) break;
      content[page.id()] = {salt, {tokens.begin(), tokens.begin() + (p + 1) * kPageTokens}};
      match.prefix =
          index.Add(salt, match.prefix,
                    absl::MakeConstSpan(tokens).subspan(p * kPageTokens, kPageTokens), page.id());
      pages.push_back(std::move(page));
    }
    running.push_back(std::move(pages));
  }
  EXPECT_GT(found, 1000);
  running.clear();
  EXPECT_EQ(pool.free_pages(), 12);
}

}  // namespace
}  // namespace tauserve
