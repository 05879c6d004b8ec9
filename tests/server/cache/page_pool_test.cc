#include "server/cache/page_pool.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

namespace tauserve {
namespace {

TEST(PagePoolTest, GivesEachPageOnceAndTakesItBack) {
  PagePool pool(5);
  std::vector<PageRef> held;
  std::set<PageId> ids;
  for (int i = 0; i < 5; i++) {
    held.push_back(pool.Allocate());
    ids.insert(held.back().id());
  }
  EXPECT_EQ(ids, (std::set<PageId>{0, 1, 2, 3, 4}));
  EXPECT_EQ(pool.free_pages(), 0);
  EXPECT_TRUE(pool.Allocate().empty());
  held.clear();
  EXPECT_EQ(pool.free_pages(), 5);
}

TEST(PagePoolTest, SharedPageIsFreeAfterItsLastReference) {
  PagePool pool(2);
  PageRef a = pool.Allocate();
  PageRef b = pool.Share(a.id());
  EXPECT_EQ(a.id(), b.id());
  a = PageRef();
  EXPECT_EQ(pool.free_pages(), 1);
  b = PageRef();
  EXPECT_EQ(pool.free_pages(), 2);
}

TEST(PagePoolTest, MovingDoesNotCount) {
  PagePool pool(1);
  PageRef a = pool.Allocate();
  PageRef b = std::move(a);
  EXPECT_TRUE(a.empty());
  EXPECT_EQ(pool.free_pages(), 0);
  b = PageRef();
  EXPECT_EQ(pool.free_pages(), 1);
}

TEST(PagePoolTest, AssigningReleasesWhatWasHeld) {
  PagePool pool(2);
  PageRef a = pool.Allocate(), b = pool.Allocate();
  const PageId kept = a.id();
  b = std::move(a);
  EXPECT_TRUE(a.empty());
  EXPECT_EQ(b.id(), kept);
  EXPECT_EQ(pool.free_pages(), 1);
}

TEST(PagePoolTest, KeptPagesAreTakenLastAndOldestFirst) {
  PagePool pool(3);
  std::vector<PageId> dropped;
  pool.set_on_drop([&](PageId id) { dropped.push_back(id); });
  PageRef a = pool.Allocate(), b = pool.Allocate(), c = pool.Allocate();
  const PageId ida = a.id(), idb = b.id(), idc = c.id();
  pool.Keep(ida);
  pool.Keep(idb);
  b = PageRef();
  a = PageRef();
  c = PageRef();
  EXPECT_EQ(pool.free_pages(), 3);
  PageRef first = pool.Allocate(), second = pool.Allocate(), third = pool.Allocate();
  EXPECT_EQ(first.id(), idc);
  EXPECT_EQ(second.id(), idb);
  EXPECT_EQ(third.id(), ida);
  EXPECT_EQ(dropped, (std::vector<PageId>{idb, ida}));
}

TEST(PagePoolTest, KeptPageComesBackThroughShare) {
  PagePool pool(1);
  PageRef a = pool.Allocate();
  const PageId id = a.id();
  pool.Keep(id);
  a = PageRef();
  EXPECT_EQ(pool.free_pages(), 1);
  PageRef again = pool.Share(id);
  EXPECT_EQ(again.id(), id);
  EXPECT_EQ(pool.free_pages(), 0);
  EXPECT_TRUE(pool.Allocate().empty());
}

TEST(PagePoolTest, DropKeptLeavesPagesInUse) {
  PagePool pool(3);
  std::vector<PageId> dropped;
  pool.set_on_drop([&](PageId id) { dropped.push_back(id); });
  PageRef a = pool.Allocate(), b = pool.Allocate();
  pool.Keep(a.id());
  pool.Keep(b.id());
  const PageId idb = b.id();
  b = PageRef();
  EXPECT_EQ(pool.DropKept(), 1);
  EXPECT_EQ(dropped, (std::vector<PageId>{idb}));
  EXPECT_EQ(pool.free_pages(), 2);
}

// Random operations against a plain model of the pool.
TEST(PagePoolTest, RandomOperationsKeepTheAccounts) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  PagePool pool(16);
  std::set<PageId> kept;
  pool.set_on_drop([&](PageId id) { ASSERT_EQ(kept.erase(id), 1u); });
  std::vector<PageRef> held;
  for (int i = 0; i < 20000; i++) {
    const int what = random() % 5;
    if (what == 0) {
      PageRef page = pool.Allocate();
      std::set<PageId> in_use;
      for (const PageRef& h : held) in_use.insert(h.id());
      ASSERT_EQ(page.empty(), in_use.size() == 16);
      if (!page.empty()) {
        ASSERT_FALSE(in_use.contains(page.id()));
        held.push_back(std::move(page));
      }
    } else if (what == 1 && !held.empty()) {
      std::swap(held[random() % held.size()], held.back());
      held.pop_back();
    } else if (what == 2 && !held.empty()) {
      const PageId id = held[random() % held.size()].id();
      pool.Keep(id);
      kept.insert(id);
    } else if (what == 3 && !kept.empty()) {
      held.push_back(pool.Share(*kept.begin()));
    } else if (what == 4 && random() % 50 == 0) {
      pool.DropKept();
    }
    std::set<PageId> in_use;
    for (const PageRef& h : held) in_use.insert(h.id());
    ASSERT_EQ(pool.free_pages(), 16 - static_cast<int>(in_use.size()));
  }
}

}  // namespace
}  // namespace tauserve
