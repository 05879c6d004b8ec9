// Several candidates of one prompt, and prompts whose log-probabilities are wanted.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "server/scheduler/scheduler.h"
#include "tests/server/scheduler/made_sequences.h"

namespace tauserve {
namespace {

TEST(CandidatesTest, CandidatesShareThePromptsPages) {
  PagePool pool(20);
  Scheduler scheduler({.max_batched_tokens = 1000, .max_running_requests = 4}, &pool, nullptr);
  auto c = MakeCandidates(MakeRequest(150, 100), 3);  // two whole pages and a part of one
  scheduler.Add(c[0].get(), ForksOf(c));
  EXPECT_EQ(TokensOf(scheduler.Schedule(kAll)), (Tokens{{c[0].get(), 150}}));
  EXPECT_EQ(scheduler.num_running(), 1);
  scheduler.Commit();
  EXPECT_EQ(scheduler.num_running(), 3);
  EXPECT_EQ(pool.free_pages(), 17);
  for (int i = 0; i < 3; i++) c[i]->Append(i);
  // All but the last to write get a copy of the page that they write to.
  const Scheduler::Step& step = scheduler.Schedule(kAll);
  EXPECT_EQ(TokensOf(step), (Tokens{{c[0].get(), 1}, {c[1].get(), 1}, {c[2].get(), 1}}));
  ASSERT_EQ(step.copies.size(), 2u);
  for (int i = 0; i < 2; i++) {
    EXPECT_EQ(step.copies[i].from, c[2]->page_table()[2]);
    EXPECT_EQ(step.copies[i].to, c[i]->page_table()[2]);
    EXPECT_EQ(c[i]->page_table()[1], c[2]->page_table()[1]);
  }
  EXPECT_NE(c[0]->page_table()[2], c[1]->page_table()[2]);
  EXPECT_EQ(pool.free_pages(), 15);
  scheduler.Commit();
  for (int i = 0; i < 3; i++) c[i]->Append(i);
  EXPECT_TRUE(scheduler.Schedule(kAll).copies.empty());
  scheduler.Commit();
  // Whoever leaves frees what is its own.
  scheduler.Remove(c[0].get());
  EXPECT_EQ(pool.free_pages(), 16);
  scheduler.Remove(c[2].get());
  EXPECT_EQ(pool.free_pages(), 17);
  scheduler.Remove(c[1].get());
  EXPECT_EQ(pool.free_pages(), 20);
}

TEST(CandidatesTest, CandidatesOfAPromptOfWholePagesNeedNoCopies) {
  PagePool pool(20);
  Scheduler scheduler({.max_batched_tokens = 1000, .max_running_requests = 4}, &pool, nullptr);
  auto c = MakeCandidates(MakeRequest(128, 100), 2);
  scheduler.Add(c[0].get(), ForksOf(c));
  scheduler.Schedule(kAll);
  scheduler.Commit();
  for (int i = 0; i < 2; i++) c[i]->Append(i);
  EXPECT_TRUE(scheduler.Schedule(kAll).copies.empty());
  EXPECT_EQ(pool.free_pages(), 16);
  EXPECT_EQ(c[0]->page_table()[1], c[1]->page_table()[1]);
  EXPECT_NE(c[0]->page_table()[2], c[1]->page_table()[2]);
  scheduler.Commit();
  for (const auto& s : c) scheduler.Remove(s.get());
}

TEST(CandidatesTest, CandidatesWaitForRoomForAllOfThem) {
  PagePool pool(8);
  Scheduler scheduler({.max_batched_tokens = 1000, .max_running_requests = 3}, &pool, nullptr);
  auto a = MakeSequence(60, 50);
  auto c = MakeCandidates(MakeRequest(60, 50), 3), d = MakeCandidates(MakeRequest(300, 50), 2);
  scheduler.Add(a.get());
  scheduler.Add(c[0].get(), ForksOf(c));  // four with `a`, one more than may run
  EXPECT_EQ(TokensOf(scheduler.Schedule(kAll)), (Tokens{{a.get(), 60}}));
  scheduler.Commit();
  EXPECT_EQ(scheduler.num_waiting(), 1);
  scheduler.Remove(c[0].get());  // and with it those that would have forked
  EXPECT_EQ(scheduler.num_waiting(), 0);
  a->Append(1);
  // One page is in use; five for the prompt and three to grow by are one more than there are.
  scheduler.Add(d[0].get(), ForksOf(d));
  EXPECT_EQ(TokensOf(scheduler.Schedule(kAll)), (Tokens{{a.get(), 1}}));
  scheduler.Commit();
  scheduler.Remove(a.get());
  EXPECT_EQ(TokensOf(scheduler.Schedule(kAll)), (Tokens{{d[0].get(), 300}}));
  scheduler.Commit();
  EXPECT_EQ(scheduler.num_running(), 2);
  for (const auto& s : d) scheduler.Remove(s.get());
  EXPECT_EQ(pool.free_pages(), 8);
}

TEST(PromptLogprobsTest, PromptsToScoreTakeFewTokensAndNoCachedPages) {
  PagePool pool(40);
  PrefixIndex index(&pool);
  Scheduler scheduler({.max_batched_tokens = 1000, .max_running_requests = 4}, &pool, &index);
  auto cached = MakeSequence(200, 1);
  scheduler.Add(cached.get());
  scheduler.Schedule(kAll);
  scheduler.Commit();
  scheduler.Remove(cached.get());
  auto scored = MakeRequest(200, 10), beside = MakeRequest(300, 10, 7);
  scored->output.top_prompt_logprobs = beside->output.top_prompt_logprobs = 0;
  Sequence a(scored), b(beside);
  auto plain = MakeSequence(300, 10, 9);
  for (Sequence* s : {&a, &b, plain.get()}) scheduler.Add(s);
  EXPECT_EQ(TokensOf(scheduler.Schedule(kAll)), (Tokens{{&a, 128}, {plain.get(), 300}}));
  EXPECT_EQ(a.cached_tokens(), 0);
  scheduler.Commit();
  plain->Append(1);
  EXPECT_EQ(TokensOf(scheduler.Schedule(kAll)), (Tokens{{plain.get(), 1}, {&a, 72}, {&b, 56}}));
  for (Sequence* s : {&a, &b, plain.get()}) scheduler.Remove(s);
}

}  // namespace
}  // namespace tauserve
