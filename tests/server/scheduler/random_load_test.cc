// The scheduler's invariants under random load: the test itself plays the engine and the device.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "server/scheduler/scheduler.h"
#include "tests/server/scheduler/made_sequences.h"

namespace tauserve {
namespace {

// Random arrivals, lengths, priorities, numbers of candidates and removals in a small pool; after every step the books
// must balance, and the cache must hold each sequence's tokens.
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
    EXPECT_GT(copies_, steps / 1000);
  }

 private:
  static constexpr int kPages = 12, kBudget = 48, kMost = 5;

  void Change() {
    if (random_() % 3 == 0 && live_.size() < 20) {
      const int max_new = 1 + random_() % (random_() % 2 == 0 ? 400 : 60);
      const int priority = random_() % 5 == 0 ? static_cast<int>(random_() % 3) - 1 : 0;
      const int prompt = 1 + random_() % (random_() % 4 == 0 ? 64 : 300);
      auto candidates = MakeCandidates(MakeRequest(prompt, max_new, random_() % 2, priority),
                                       random_() % 3 == 0 ? 1 + random_() % kMost : 1);
      std::vector<Sequence*> forks = ForksOf(candidates);
      scheduler_.Add(candidates[0].get(), forks);
      to_fork_.insert(forks.begin(), forks.end());
      for (auto& candidate : candidates) live_.push_back(std::move(candidate));
    }
    if (!live_.empty() && random_() % 20 == 0) Take(live_[random_() % live_.size()].get());
  }

  // One that waits to fork goes with the first candidate, and so do all others that wait with it.
  void Take(Sequence* sequence) {
    const Request* request = &sequence->request();
    std::vector<Sequence*> gone;
    for (const auto& s : live_) {
      const bool forks = &s->request() == request && HasForks(*sequence);
      if (s.get() == sequence || forks) gone.push_back(s.get());
    }
    for (Sequence* s : gone) {
      scheduler_.Remove(s);
      expected_.erase(s);
      to_fork_.erase(s);
    }
    std::erase_if(live_, [&](const auto& s) { return std::ranges::count(gone, s.get()) > 0; });
  }

  // Some candidates of its request wait for the end of the prompt.
  bool HasForks(const Sequence& sequence) const {
    return std::any_of(to_fork_.begin(), to_fork_.end(), [&](const Sequence* fork) {
      return &fork->request() == &sequence.request();
    });
  }

  // What a device does.
  void RunOnDevice(const Scheduler::Step& step) {
    std::set<PageId> to;
    for (const PageCopy& copy : step.copies) {
      cache_[copy.to] = cache_[copy.from];
      ASSERT_TRUE(to.insert(copy.to).second);
    }
    for (const PageCopy& copy : step.copies) ASSERT_FALSE(to.contains(copy.from));
    copies_ += step.copies.size();
    std::set<std::pair<PageId, int>> written;
    for (const Scheduler::Entry& e : step.entries) {
      for (int t = e.sequence->computed(); t < e.sequence->computed() + e.num_tokens; t++) {
        const PageId page = e.sequence->page_table()[t / kPageTokens];
        ASSERT_TRUE(written.emplace(page, t % kPageTokens).second);
        cache_[page][t % kPageTokens] = e.sequence->tokens()[t];
      }
    }
    for (const Scheduler::Entry& e : step.entries) {
      for (int t = 0; t < e.sequence->computed() + e.num_tokens; t++) {
        const PageId page = e.sequence->page_table()[t / kPageTokens];
        ASSERT_EQ(cache_[page][t % kPageTokens], e.sequence->tokens()[t]) << "token " << t;
      }
    }
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
        ASSERT_TRUE(expected_.contains(s.get()) || to_fork_.contains(s.get()) ||
                    RankOf(*s) >= RankOf(*admitted));
      }
    }
    RunOnDevice(step);
    if (testing::Test::HasFatalFailure()) return;
    scheduler_.Commit();
    std::vector<Sequence*> ran;
    for (const Scheduler::Entry& e : step.entries) {
      ran.push_back(e.sequence);
      if (e.sequence->remaining() > 0) continue;
      for (const auto& s : live_) {
        if (&s->request() != &e.sequence->request() || to_fork_.erase(s.get()) == 0) continue;
        ASSERT_TRUE(s->running());
        ASSERT_EQ(s->computed(), s->prompt_tokens());
        expected_[s.get()] = s->computed();
        ran.push_back(s.get());
      }
    }
    for (Sequence* s : ran) {
      // Each candidate goes its own way.
      if (s->remaining() == 0) s->Append(static_cast<int32_t>(random_() % 1000));
    }
    for (Sequence* s : ran) {
      if (s->new_tokens() < s->request().stopping.max_new_tokens) continue;
      Take(s);
      finished_++;
    }
    std::set<PageId> in_use;
    for (const auto& s : live_) {
      for (int p = 0; p < s->num_pages(); p++) in_use.insert(s->page_table()[p]);
    }
    ASSERT_EQ(pool_.free_pages(), kPages - static_cast<int>(in_use.size()));
    ASSERT_EQ(static_cast<size_t>(scheduler_.num_running()), expected_.size());
    ASSERT_EQ(scheduler_.num_running() + scheduler_.num_waiting(),
              static_cast<int>(live_.size() - to_fork_.size()));
    ASSERT_LE(scheduler_.num_running(), kMost);
  }

  static absl::Time RankOf(const Sequence& s) {
    return s.request().arrival + s.request().priority * Scheduler::kPriorityUnit;
  }
  // Of the running ones, else of all.
  const Sequence* Oldest() const {
    const Sequence* oldest = nullptr;
    for (const auto& s : live_) {
      if (!expected_.empty() && !expected_.contains(s.get())) continue;
      if (to_fork_.contains(s.get())) continue;
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
  std::set<const Sequence*> to_fork_;        // candidates that wait for their prompt
  std::array<std::array<int32_t, kPageTokens>, kPages> cache_{};
  int64_t finished_ = 0, preemptions_ = 0, copies_ = 0;
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
