// The scheduler through a fake runner: the test itself plays the engine.
#include "server/scheduler/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <utility>
#include <vector>

namespace tauserve {
namespace {

std::unique_ptr<Sequence> MakeSequence(int prompt, int max_new, int first_token = 0) {
  auto request = std::make_shared<Request>();
  for (int i = 0; i < prompt; i++) request->prompt.push_back(first_token + i);
  request->stopping.max_new_tokens = max_new;
  return std::make_unique<Sequence>(std::move(request));
}

// Appends a token to every sequence whose tokens are all computed.
void AppendTokens(const std::vector<Scheduler::Entry>& entries) {
  for (const Scheduler::Entry& e : entries) {
    if (e.sequence->remaining() == 0) e.sequence->Append(1);
  }
}

TEST(SchedulerTest, ChunksAPromptUnderTheBudget) {
  PagePool pool(10);
  Scheduler scheduler({.max_batched_tokens = 100, .max_running_requests = 4}, &pool, nullptr);
  auto s = MakeSequence(250, 10);
  scheduler.Add(s.get());
  std::vector<int> chunks;
  for (int i = 0; i < 4; i++) {
    const auto& step = scheduler.Schedule();
    ASSERT_EQ(step.entries.size(), 1u);
    chunks.push_back(step.entries[0].num_tokens);
    scheduler.Commit();
    AppendTokens(step.entries);
  }
  EXPECT_EQ(chunks, (std::vector<int>{100, 100, 50, 1}));
  scheduler.Remove(s.get());
  EXPECT_EQ(pool.free_pages(), 10);
}

TEST(SchedulerTest, DecodeRowsComeFirstAndPromptsShareTheRest) {
  PagePool pool(20);
  Scheduler scheduler({.max_batched_tokens = 64, .max_running_requests = 4}, &pool, nullptr);
  auto a = MakeSequence(10, 10), b = MakeSequence(200, 10);
  scheduler.Add(a.get());
  scheduler.Add(b.get());
  AppendTokens(
      (scheduler.Schedule(), scheduler.Commit(), std::vector<Scheduler::Entry>{{a.get(), 0}}));
  const auto& step = scheduler.Schedule();
  ASSERT_EQ(step.entries.size(), 2u);
  EXPECT_EQ(step.entries[0].sequence, a.get());
  EXPECT_EQ(step.entries[0].num_tokens, 1);
  EXPECT_EQ(step.entries[1].sequence, b.get());
  EXPECT_EQ(step.entries[1].num_tokens, 63);
  scheduler.Remove(a.get());
  scheduler.Remove(b.get());
}

TEST(SchedulerTest, AdmitsOnlyWhatFitsToItsEnd) {
  PagePool pool(4);
  Scheduler scheduler({.max_batched_tokens = 1000, .max_running_requests = 4}, &pool, nullptr);
  auto a = MakeSequence(10, 180), b = MakeSequence(10, 100);  // 3 and 2 pages at most
  scheduler.Add(a.get());
  scheduler.Add(b.get());
  EXPECT_EQ(scheduler.Schedule().entries.size(), 1u);
  EXPECT_EQ(scheduler.num_waiting(), 1);
  EXPECT_EQ(scheduler.waiting_prompt_tokens(), 10);
  scheduler.Commit();
  scheduler.Remove(a.get());
  EXPECT_EQ(scheduler.Schedule().entries.size(), 1u);
  scheduler.Remove(b.get());
  EXPECT_EQ(pool.free_pages(), 4);
}

TEST(SchedulerTest, ASecondPromptUsesTheFirstOnesPages) {
  PagePool pool(20);
  PrefixIndex index(&pool);
  Scheduler scheduler({.max_batched_tokens = 1000, .max_running_requests = 4}, &pool, &index);
  auto a = MakeSequence(200, 10);
  scheduler.Add(a.get());
  scheduler.Schedule();
  scheduler.Commit();
  auto b = MakeSequence(200, 10);
  scheduler.Add(b.get());
  scheduler.Schedule();
  EXPECT_EQ(b->cached_tokens(), 192);
  EXPECT_EQ(b->page_table()[0], a->page_table()[0]);
  EXPECT_NE(b->page_table()[3], a->page_table()[3]);
  scheduler.Commit();
  scheduler.Remove(a.get());
  scheduler.Remove(b.get());
  EXPECT_EQ(pool.free_pages(), 20);
  // A prompt of whole pages computes its last page anew: the last token's logits are needed.
  auto c = MakeSequence(192, 10);
  scheduler.Add(c.get());
  scheduler.Schedule();
  EXPECT_EQ(c->cached_tokens(), 128);
  scheduler.Remove(c.get());
}

TEST(SchedulerTest, OneThatWaitsForPagesComesInWhenItsPrefixGrows) {
  PagePool pool(5);
  PrefixIndex index(&pool);
  Scheduler scheduler({.max_batched_tokens = 64, .max_running_requests = 4}, &pool, &index);
  auto a = MakeSequence(200, 50), b = MakeSequence(200, 50);  // four pages each
  scheduler.Add(a.get());
  scheduler.Add(b.get());
  for (int known_pages = 0; known_pages < 3; known_pages++) {
    EXPECT_EQ(scheduler.Schedule().entries.size(), 1u);
    EXPECT_EQ(scheduler.num_waiting(), 1);
    scheduler.Commit();
  }
  scheduler.Schedule();  // three pages of b's prefix are in use: it needs only one of its own
  EXPECT_EQ(scheduler.num_waiting(), 0);
  EXPECT_EQ(b->cached_tokens(), 192);
  scheduler.Commit();
  scheduler.Remove(a.get());
  scheduler.Remove(b.get());
  EXPECT_EQ(pool.free_pages(), 5);
}

TEST(SchedulerTest, BypassNeitherUsesNorLeavesPages) {
  PagePool pool(20);
  PrefixIndex index(&pool);
  Scheduler scheduler({.max_batched_tokens = 1000, .max_running_requests = 4}, &pool, &index);
  auto run = [&](bool bypass) {
    auto request = std::make_shared<Request>();
    request->prompt.assign(200, 7);
    request->stopping.max_new_tokens = 1;
    request->bypass_prefix_cache = bypass;
    Sequence s(std::move(request));
    scheduler.Add(&s);
    scheduler.Schedule();
    scheduler.Commit();
    scheduler.Remove(&s);
    return s.cached_tokens();
  };
  EXPECT_EQ(run(true), 0);
  EXPECT_EQ(run(false), 0);
  EXPECT_EQ(run(true), 0);
  EXPECT_EQ(run(false), 192);
}

// Random arrivals, lengths and removals in a small pool; after every step the books must balance.
TEST(SchedulerTest, RandomLoadKeepsTheInvariants) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (bool cached : {false, true}) {
    const int pages = 12, budget = 48, most = 5;
    PagePool pool(pages);
    PrefixIndex index(&pool);
    Scheduler scheduler({.max_batched_tokens = budget, .max_running_requests = most}, &pool,
                        cached ? &index : nullptr);
    std::vector<std::unique_ptr<Sequence>> live;  // in order of arrival
    std::map<const Sequence*, int> expected;      // tokens that are computed so far
    int64_t finished = 0;
    for (int i = 0; i < 10000; i++) {
      if (random() % 3 == 0 && live.size() < 20) {
        const int max_new = 1 + random() % 60;
        live.push_back(MakeSequence(1 + random() % 300, max_new, random() % 2));
        scheduler.Add(live.back().get());
      }
      if (!live.empty() && random() % 20 == 0) {
        const size_t victim = random() % live.size();
        scheduler.Remove(live[victim].get());
        expected.erase(live[victim].get());
        live.erase(live.begin() + victim);
      }
      const Scheduler::Step& step = scheduler.Schedule();
      ASSERT_EQ(step.entries.empty(), live.empty());
      ASSERT_LE(step.entries.size(), static_cast<size_t>(most));
      int tokens = 0;
      bool prefill = false;
      for (const Sequence* s : step.admitted) expected[s] = s->cached_tokens();
      for (const Scheduler::Entry& e : step.entries) {
        tokens += e.num_tokens;
        ASSERT_GT(e.num_tokens, 0);
        ASSERT_EQ(e.sequence->computed(), expected.at(e.sequence));  // each token exactly once
        ASSERT_LE(e.num_tokens, e.sequence->remaining());
        ASSERT_GE(e.sequence->num_pages() * kPageTokens, e.sequence->computed() + e.num_tokens);
        ASSERT_FALSE(prefill && !e.sequence->in_prefill()) << "a decode row behind a prompt";
        prefill = e.sequence->in_prefill();
        expected[e.sequence] += e.num_tokens;
      }
      ASSERT_LE(tokens, budget);
      // Nobody starves: every running sequence that decodes is in the step, and the oldest prompt.
      bool oldest_prompt = true;
      for (const auto& s : live) {
        if (!expected.contains(s.get())) continue;
        const bool in_step = std::any_of(step.entries.begin(), step.entries.end(),
                                         [&](const auto& e) { return e.sequence == s.get(); });
        const bool must_run = !s->in_prefill() || std::exchange(oldest_prompt, false);
        ASSERT_TRUE(in_step || !must_run);
      }
      // First come, first served: whoever waits came after everyone who was admitted.
      bool waiting = false;
      for (const auto& s : live) {
        const bool admitted = expected.contains(s.get());
        ASSERT_FALSE(waiting && admitted);
        waiting |= !admitted;
      }
      scheduler.Commit();
      const std::vector<Scheduler::Entry> entries = step.entries;
      AppendTokens(entries);
      for (const Scheduler::Entry& e : entries) {
        if (e.sequence->new_tokens() < e.sequence->request().stopping.max_new_tokens) continue;
        scheduler.Remove(e.sequence);
        expected.erase(e.sequence);
        finished++;
        live.erase(std::find_if(live.begin(), live.end(),
                                [&](const auto& s) { return s.get() == e.sequence; }));
      }
      std::set<PageId> in_use;
      for (const auto& s : live) {
        for (int p = 0; p < s->num_pages(); p++) in_use.insert(s->page_table()[p]);
      }
      ASSERT_EQ(pool.free_pages(), pages - static_cast<int>(in_use.size()));
    }
    EXPECT_GT(finished, 100);
    for (const auto& s : live) scheduler.Remove(s.get());
    EXPECT_EQ(pool.free_pages(), pages);
    EXPECT_EQ(scheduler.num_running() + scheduler.num_waiting(), 0);
    EXPECT_EQ(scheduler.waiting_prompt_tokens(), 0);
  }
}

}  // namespace
}  // namespace tauserve
