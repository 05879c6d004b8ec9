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

#include "server/scheduler/step_budget.h"

namespace tauserve {
namespace {

constexpr int kAll = 1 << 20;  // as many tokens of prompts as fit

// Sequences are made in order of arrival, a millisecond apart.
std::unique_ptr<Sequence> MakeSequence(int prompt, int max_new, int first_token = 0,
                                       int priority = 0) {
  static absl::Time now = absl::UnixEpoch();
  auto request = std::make_shared<Request>();
  for (int i = 0; i < prompt; i++) request->prompt.push_back(first_token + i);
  request->stopping.max_new_tokens = max_new;
  request->priority = priority;
  request->arrival = now += absl::Milliseconds(1);
  return std::make_unique<Sequence>(std::move(request));
}

// Appends a token to every sequence whose tokens are all computed.
void AppendTokens(const std::vector<Scheduler::Entry>& entries) {
  for (const Scheduler::Entry& e : entries) {
    if (e.sequence->remaining() == 0) e.sequence->Append(1);
  }
}

// Tokens of each entry of a step.
using Tokens = std::vector<std::pair<const Sequence*, int>>;
Tokens TokensOf(const Scheduler::Step& step) {
  Tokens tokens;
  for (const Scheduler::Entry& e : step.entries) tokens.emplace_back(e.sequence, e.num_tokens);
  return tokens;
}

TEST(SchedulerTest, ChunksAPromptUnderTheBudget) {
  PagePool pool(10);
  Scheduler scheduler({.max_batched_tokens = 100, .max_running_requests = 4}, &pool, nullptr);
  auto s = MakeSequence(250, 10);
  scheduler.Add(s.get());
  std::vector<int> chunks;
  for (int i = 0; i < 5; i++) {
    const auto& step = scheduler.Schedule(i == 1 ? 40 : kAll);
    ASSERT_EQ(step.entries.size(), 1u);
    chunks.push_back(step.entries[0].num_tokens);
    scheduler.Commit();
    AppendTokens(step.entries);
  }
  EXPECT_EQ(chunks, (std::vector<int>{100, 40, 100, 10, 1}));
  scheduler.Remove(s.get());
  EXPECT_EQ(pool.free_pages(), 10);
}

TEST(SchedulerTest, DecodeRowsComeFirstAndPromptsTakeTheRest) {
  PagePool pool(20);
  Scheduler scheduler({.max_batched_tokens = 64, .max_running_requests = 4}, &pool, nullptr);
  auto a = MakeSequence(10, 10), b = MakeSequence(600, 10);
  scheduler.Add(a.get());
  scheduler.Schedule(kAll);
  scheduler.Commit();
  a->Append(1);
  scheduler.Add(b.get());
  EXPECT_EQ(TokensOf(scheduler.Schedule(kAll)), (Tokens{{a.get(), 1}, {b.get(), 63}}));
  scheduler.Commit();
  a->Append(1);
  // However few tokens prompts may take, decode rows run.
  EXPECT_EQ(TokensOf(scheduler.Schedule(5)), (Tokens{{a.get(), 1}, {b.get(), 5}}));
  scheduler.Commit();
  scheduler.Remove(a.get());
  scheduler.Remove(b.get());
}

TEST(SchedulerTest, AShortPromptIsNotStuckBehindLongOnes) {
  PagePool pool(2000);
  Scheduler scheduler({.max_batched_tokens = 2048, .max_running_requests = 8}, &pool, nullptr);
  auto a = MakeSequence(30000, 10), b = MakeSequence(30000, 10), c = MakeSequence(30000, 10),
       quick = MakeSequence(100, 10), rest = MakeSequence(900, 10);
  scheduler.Add(a.get());
  EXPECT_EQ(TokensOf(scheduler.Schedule(kAll)), (Tokens{{a.get(), 2048}}));
  scheduler.Commit();
  for (Sequence* s : {b.get(), c.get(), quick.get()}) scheduler.Add(s);
  // The short one whole; half of what is left to the first, a quarter (in whole pages) to each other.
  EXPECT_EQ(TokensOf(scheduler.Schedule(kAll)),
            (Tokens{{quick.get(), 100}, {a.get(), 1052}, {b.get(), 448}, {c.get(), 448}}));
  scheduler.Commit();
  scheduler.Remove(a.get());
  scheduler.Remove(quick.get());
  scheduler.Add(rest.get());
  // `c` and `rest` have a quarter each; what one does not need goes to the first.
  EXPECT_EQ(TokensOf(scheduler.Schedule(kAll)),
            (Tokens{{b.get(), 1024}, {c.get(), 512}, {rest.get(), 512}}));
  scheduler.Commit();
  EXPECT_EQ(TokensOf(scheduler.Schedule(kAll)),
            (Tokens{{b.get(), 1148}, {c.get(), 512}, {rest.get(), 388}}));
  scheduler.Commit();
  for (Sequence* s : {b.get(), c.get(), rest.get()}) scheduler.Remove(s);
}

// However slow the machine: with the fewest tokens that a step gives to prompts, and the batch full of others.
TEST(SchedulerTest, AHundredTokensAreThroughWithinThreeSteps) {
  PagePool pool(3000);
  Scheduler scheduler({.max_batched_tokens = 2048, .max_running_requests = 32}, &pool, nullptr);
  std::vector<std::unique_ptr<Sequence>> others;
  for (int i = 0; i < 28; i++) others.push_back(MakeSequence(20, 500));
  for (int i = 0; i < 2; i++) others.push_back(MakeSequence(60000, 10));
  for (const auto& other : others) scheduler.Add(other.get());
  auto step = [&](int32_t budget) -> const Scheduler::Step& {
    const Scheduler::Step& planned = scheduler.Schedule(budget);
    scheduler.Commit();
    AppendTokens(planned.entries);
    return planned;
  };
  for (int i = 0; i < 5; i++) step(kAll);
  for (int i = 0; i < 20; i++) {
    auto quick = MakeSequence(100, 10);
    scheduler.Add(quick.get());
    const Scheduler::Step& first = step(StepBudget::kFewestTokens);
    ASSERT_EQ(first.admitted, std::vector<Sequence*>{quick.get()});
    int steps = 1;
    for (; quick->new_tokens() == 0; steps++) step(StepBudget::kFewestTokens);
    EXPECT_LE(steps, 3);
    scheduler.Remove(quick.get());
  }
  EXPECT_TRUE(others.back()->in_prefill());
  for (const auto& other : others) scheduler.Remove(other.get());
}

TEST(SchedulerTest, PrioritiesOvertakeByTheirWorthInWaiting) {
  PagePool pool(10);
  Scheduler scheduler({.max_batched_tokens = 64, .max_running_requests = 1}, &pool, nullptr);
  auto first = MakeSequence(10, 1), second = MakeSequence(10, 1, 0, 1),
       urgent = MakeSequence(10, 1, 0, -1);
  auto late = std::make_shared<Request>(urgent->request());
  late->arrival += Scheduler::kPriorityUnit;  // has waited less by as much as it is more urgent
  Sequence urgent_and_late(late);
  for (Sequence* s : {first.get(), second.get(), &urgent_and_late, urgent.get()}) scheduler.Add(s);
  std::vector<const Sequence*> order;
  for (int i = 0; i < 4; i++) {
    order.push_back(scheduler.Schedule(kAll).entries.at(0).sequence);
    scheduler.Commit();
    scheduler.Remove(const_cast<Sequence*>(order.back()));
  }
  EXPECT_EQ(order, (std::vector<const Sequence*>{urgent.get(), first.get(), &urgent_and_late,
                                                 second.get()}));
}

TEST(SchedulerTest, ARunningOneGivesItsPagesToAnOlderOne) {
  PagePool pool(6);
  PrefixIndex index(&pool);
  Scheduler scheduler({.max_batched_tokens = 1000, .max_running_requests = 4}, &pool, &index);
  auto a = MakeSequence(64, 250), b = MakeSequence(64, 250, 100);  // five pages each at the end
  scheduler.Add(a.get());
  scheduler.Add(b.get());
  int steps = 0;
  for (;; steps++) {
    ASSERT_LT(steps, 200);
    const Scheduler::Step& step = scheduler.Schedule(kAll);
    if (!step.preempted.empty()) {
      EXPECT_EQ(step.preempted, std::vector<Sequence*>{b.get()});
      EXPECT_EQ(TokensOf(step), (Tokens{{a.get(), 1}}));
      break;
    }
    scheduler.Commit();
    AppendTokens(step.entries);
  }
  const int known = b->num_tokens();
  EXPECT_GT(known, 64 + 2);
  EXPECT_EQ(b->preemptions(), 1);
  EXPECT_EQ(b->num_pages(), 0);
  EXPECT_EQ(b->computed(), 0);
  EXPECT_EQ(scheduler.num_waiting(), 1);
  scheduler.Commit();
  AppendTokens({{a.get(), 1}});
  // Whatever `a` still needs it gets; `b` waits.
  while (a->new_tokens() < 250) {
    ASSERT_EQ(TokensOf(scheduler.Schedule(kAll)), (Tokens{{a.get(), 1}}));
    scheduler.Commit();
    a->Append(1);
  }
  scheduler.Remove(a.get());
  // Then it computes its prompt and what it had generated, and goes on; pages that nobody took are found again.
  const Scheduler::Step& again = scheduler.Schedule(kAll);
  EXPECT_EQ(again.admitted, std::vector<Sequence*>{b.get()});
  ASSERT_EQ(again.entries.size(), 1u);
  EXPECT_EQ(b->computed() + again.entries[0].num_tokens, known);
  EXPECT_EQ(b->cached_tokens(), 0);  // of its first run
  scheduler.Commit();
  EXPECT_EQ(b->remaining(), 0);
  scheduler.Remove(b.get());
  EXPECT_EQ(pool.free_pages(), 6);
}

TEST(SchedulerTest, ASecondPromptUsesTheFirstOnesPages) {
  PagePool pool(20);
  PrefixIndex index(&pool);
  Scheduler scheduler({.max_batched_tokens = 1000, .max_running_requests = 4}, &pool, &index);
  auto a = MakeSequence(200, 10);
  scheduler.Add(a.get());
  scheduler.Schedule(kAll);
  scheduler.Commit();
  auto b = MakeSequence(200, 10);
  scheduler.Add(b.get());
  scheduler.Schedule(kAll);
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
  scheduler.Schedule(kAll);
  EXPECT_EQ(c->cached_tokens(), 128);
  scheduler.Remove(c.get());
}

TEST(SchedulerTest, OneThatWaitsForPagesComesInWhenItsPrefixGrows) {
  PagePool pool(7);
  PrefixIndex index(&pool);
  Scheduler scheduler({.max_batched_tokens = 64, .max_running_requests = 4}, &pool, &index);
  auto a = MakeSequence(200, 50), b = MakeSequence(200, 50);  // four pages each
  scheduler.Add(a.get());
  scheduler.Add(b.get());
  for (int known_pages = 0; known_pages < 3; known_pages++) {
    EXPECT_EQ(scheduler.Schedule(kAll).entries.size(), 1u);
    EXPECT_EQ(scheduler.num_waiting(), 1);
    scheduler.Commit();
  }
  // Three pages of b's prefix are in use: it needs one of its own, and two to grow by for both.
  scheduler.Schedule(kAll);
  EXPECT_EQ(scheduler.num_waiting(), 0);
  EXPECT_EQ(b->cached_tokens(), 192);
  scheduler.Commit();
  scheduler.Remove(a.get());
  scheduler.Remove(b.get());
  EXPECT_EQ(pool.free_pages(), 7);
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
    scheduler.Schedule(kAll);
    scheduler.Commit();
    scheduler.Remove(&s);
    return s.cached_tokens();
  };
  EXPECT_EQ(run(true), 0);
  EXPECT_EQ(run(false), 0);
  EXPECT_EQ(run(true), 0);
  EXPECT_EQ(run(false), 192);
}

// Random arrivals, lengths, priorities and removals in a small pool; after every step the books must balance.
class RandomLoad {
 public:
  RandomLoad(uint32_t seed, bool cached)
      : random_(seed),
        index_(&pool_),
        scheduler_({.max_batched_tokens = kBudget, .max_running_requests = kMost}, &pool_,
                   cached ? &index_ : nullptr) {}

  void Run(int steps) {
    for (int i = 0; i < steps; i++) {
      Change();
      Step();
      if (testing::Test::HasFatalFailure()) return;
    }
    // Without arrivals all get to their end, however often they were preempted.
    for (int i = 0; !live_.empty(); i++) {
      ASSERT_LT(i, 100000) << live_.size() << " sequences go on for ever";
      Step();
      if (testing::Test::HasFatalFailure()) return;
    }
    EXPECT_EQ(pool_.free_pages(), kPages);
    EXPECT_EQ(scheduler_.num_running() + scheduler_.num_waiting(), 0);
    EXPECT_EQ(scheduler_.waiting_prompt_tokens(), 0);
    EXPECT_GT(finished_, steps / 100);
    EXPECT_GT(preemptions_, steps / 1000);
  }

 private:
  static constexpr int kPages = 12, kBudget = 48, kMost = 5;

  void Change() {
    if (random_() % 3 == 0 && live_.size() < 20) {
      const int max_new = 1 + random_() % (random_() % 2 == 0 ? 400 : 60);
      const int priority = random_() % 5 == 0 ? static_cast<int>(random_() % 3) - 1 : 0;
      live_.push_back(MakeSequence(1 + random_() % 300, max_new, random_() % 2, priority));
      scheduler_.Add(live_.back().get());
    }
    if (!live_.empty() && random_() % 20 == 0) Take(live_[random_() % live_.size()].get());
  }

  void Take(Sequence* sequence) {
    scheduler_.Remove(sequence);
    expected_.erase(sequence);
    std::erase_if(live_, [&](const auto& s) { return s.get() == sequence; });
  }

  void Step() {
    const int prefill = random_() % 4 == 0 ? 1 + random_() % kBudget : kAll;
    const int oldest_before = live_.empty() ? 0 : expected_.contains(Oldest());
    const Scheduler::Step& step = scheduler_.Schedule(prefill);
    for (const Sequence* s : step.preempted) {
      ASSERT_TRUE(s != Oldest() || !oldest_before) << "the oldest one was preempted";
      ASSERT_EQ(s->num_pages(), 0);
      expected_.erase(s);
      preemptions_++;
    }
    ASSERT_TRUE(step.preempted.empty() || step.admitted.empty());
    ASSERT_EQ(step.entries.empty(), live_.empty());
    ASSERT_LE(step.entries.size(), static_cast<size_t>(kMost));
    for (const Sequence* s : step.admitted) expected_[s] = s->computed();
    int tokens = 0, prompts = 0;
    bool in_prompts = false;
    std::set<const Sequence*> stepped;
    for (const Scheduler::Entry& e : step.entries) {
      ASSERT_TRUE(stepped.insert(e.sequence).second);
      ASSERT_GT(e.num_tokens, 0);
      ASSERT_EQ(e.sequence->computed(), expected_.at(e.sequence));  // each token exactly once
      ASSERT_LE(e.num_tokens, e.sequence->remaining());
      ASSERT_GE(e.sequence->num_pages() * kPageTokens, e.sequence->computed() + e.num_tokens);
      ASSERT_FALSE(in_prompts && !e.sequence->in_prefill()) << "a decode row behind a prompt";
      in_prompts = e.sequence->in_prefill();
      tokens += e.num_tokens;
      if (in_prompts) prompts += e.num_tokens;
      expected_[e.sequence] += e.num_tokens;
    }
    ASSERT_LE(tokens, kBudget);
    ASSERT_LE(prompts, prefill);
    // Every running sequence that decodes is in the step.
    for (const auto& [s, computed] : expected_) {
      ASSERT_TRUE(s->in_prefill() || stepped.contains(s));
    }
    // Nobody overtakes: whoever waits ranks behind everyone who was admitted in this step.
    for (const Sequence* admitted : step.admitted) {
      for (const auto& s : live_) {
        ASSERT_TRUE(expected_.contains(s.get()) || RankOf(*s) >= RankOf(*admitted));
      }
    }
    scheduler_.Commit();
    const std::vector<Scheduler::Entry> entries = step.entries;
    AppendTokens(entries);
    for (const Scheduler::Entry& e : entries) {
      if (e.sequence->new_tokens() < e.sequence->request().stopping.max_new_tokens) continue;
      Take(e.sequence);
      finished_++;
    }
    std::set<PageId> in_use;
    for (const auto& s : live_) {
      for (int p = 0; p < s->num_pages(); p++) in_use.insert(s->page_table()[p]);
    }
    ASSERT_EQ(pool_.free_pages(), kPages - static_cast<int>(in_use.size()));
    ASSERT_EQ(static_cast<size_t>(scheduler_.num_running()), expected_.size());
    ASSERT_EQ(scheduler_.num_running() + scheduler_.num_waiting(), static_cast<int>(live_.size()));
  }

  static absl::Time RankOf(const Sequence& s) {
    return s.request().arrival + s.request().priority * Scheduler::kPriorityUnit;
  }
  // Of the running ones, else of all.
  const Sequence* Oldest() const {
    const Sequence* oldest = nullptr;
    for (const auto& s : live_) {
      if (!expected_.empty() && !expected_.contains(s.get())) continue;
      if (oldest == nullptr || RankOf(*s) < RankOf(*oldest)) oldest = s.get();
    }
    return oldest;
  }

  std::mt19937 random_;
  PagePool pool_{kPages};
  PrefixIndex index_;
  Scheduler scheduler_;
  std::vector<std::unique_ptr<Sequence>> live_;
  std::map<const Sequence*, int> expected_;  // running ones: tokens that are computed so far
  int64_t finished_ = 0, preemptions_ = 0;
};

TEST(SchedulerTest, RandomLoadKeepsTheInvariants) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  for (bool cached : {false, true}) {
    RandomLoad load(seed, cached);
    load.Run(60000);
  }
}

}  // namespace
}  // namespace tauserve
