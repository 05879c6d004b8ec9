#include "server/scheduler/step_budget.h"

#include <gtest/gtest.h>

namespace tauserve {
namespace {

TEST(StepBudgetTest, PromptsAloneTakeAllThatFits) {
  StepBudget budget(2048, absl::Milliseconds(100));
  EXPECT_EQ(budget.Tokens(true, 1), 2048);  // nothing is known yet
  budget.Done(2048, absl::Seconds(2));
  EXPECT_EQ(budget.Tokens(false, 1), 2048);
  EXPECT_LT(budget.Tokens(true, 1), 2048);
}

TEST(StepBudgetTest, NoTargetNoLimit) {
  StepBudget budget(2048, absl::ZeroDuration());
  budget.Done(2048, absl::Seconds(20));
  EXPECT_EQ(budget.Tokens(true, 1), 2048);
}

// A machine where a step takes 20 ms, and 0.4 ms for each token of a prompt.
TEST(StepBudgetTest, FindsWhatFitsTheTarget) {
  StepBudget budget(4096, absl::Milliseconds(100));
  const auto run = [&](int tokens) {
    budget.Done(tokens, absl::Milliseconds(20) + tokens * absl::Microseconds(400));
  };
  run(4096);
  for (int i = 0; i < 20; i++) {
    run(0);
    run(budget.Tokens(true, 1));
  }
  EXPECT_NEAR(budget.Tokens(true, 1), 200, 2);
}

TEST(StepBudgetTest, SlowerStepsCountAtOnce) {
  StepBudget budget(4096, absl::Milliseconds(100));
  budget.Done(1000, absl::Milliseconds(100));
  EXPECT_EQ(budget.Tokens(true, 1), 1000);
  budget.Done(1000, absl::Milliseconds(500));
  EXPECT_EQ(budget.Tokens(true, 1), 200);
  budget.Done(200, absl::Milliseconds(20));
  EXPECT_LT(budget.Tokens(true, 1), 400);
  EXPECT_GT(budget.Tokens(true, 1), 200);
}

TEST(StepBudgetTest, APromptGetsOnHoweverSlow) {
  StepBudget budget(4096, absl::Milliseconds(10));
  budget.Done(0, absl::Milliseconds(5));
  budget.Done(4096, absl::Seconds(100));
  EXPECT_EQ(budget.Tokens(true, 1), StepBudget::kFewestTokens);
  EXPECT_EQ(budget.Tokens(true, 2), StepBudget::kFewestShared);
}

TEST(StepBudgetTest, PromptsMayMakeSlowStepsHalfAsLongAgain) {
  StepBudget budget(4096, absl::Milliseconds(100));
  budget.Done(0, absl::Milliseconds(400));
  budget.Done(1000, absl::Milliseconds(2400));  // 2 ms each
  EXPECT_NEAR(budget.Tokens(true, 1), 100, 1);
}

// The last tokens of a prompt take as long as many: they say nothing of a token's share.
TEST(StepBudgetTest, AFewTokensDoNotCount) {
  StepBudget budget(4096, absl::Milliseconds(100));
  budget.Done(1000, absl::Milliseconds(100));
  budget.Done(1, absl::Milliseconds(50));
  EXPECT_EQ(budget.Tokens(true, 1), 1000);
}

}  // namespace
}  // namespace tauserve
