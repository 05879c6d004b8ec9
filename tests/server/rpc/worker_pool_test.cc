#include "server/rpc/worker_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <string>
#include <vector>

#include "server/request/delivery_scope.h"

namespace tauserve {
namespace {

TEST(WorkerPoolTest, RunsEverythingBeforeItEnds) {
  std::atomic<int> ran = 0;
  {
    WorkerPool pool(3, 1000);
    for (int i = 0; i < 500; i++) ASSERT_TRUE(pool.Run([&] { ran++; }).ok());
  }
  EXPECT_EQ(ran, 500);
}

TEST(WorkerPoolTest, OneThreadKeepsTheOrder) {
  std::vector<int> order;
  {
    WorkerPool pool(1, 1000);
    for (int i = 0; i < 100; i++) ASSERT_TRUE(pool.Run([&order, i] { order.push_back(i); }).ok());
  }
  for (int i = 0; i < 100; i++) ASSERT_EQ(order[i], i);
}

TEST(WorkerPoolTest, RefusesWhatIsTooMuch) {
  std::promise<void> begun, go_on;
  WorkerPool pool(1, 2);
  ASSERT_TRUE(pool.Run([&] {
                    begun.set_value();
                    go_on.get_future().wait();
                  })
                  .ok());
  begun.get_future().wait();
  EXPECT_TRUE(pool.Run([] {}).ok());
  EXPECT_TRUE(pool.Run([] {}).ok());
  bool ran = false;
  const absl::Status refused = pool.Run([&] { ran = true; });
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), testing::HasSubstr("2 calls wait"));
  go_on.set_value();
  std::promise<void> done;
  while (!pool.Run([&] { done.set_value(); }).ok()) std::this_thread::yield();
  done.get_future().wait();
  EXPECT_FALSE(ran);
}

TEST(WorkerPoolTest, TasksOfAScopeRunAtItsEndAtTheLatest) {
  WorkerPool pool(2, 1000);
  std::atomic<int> ran = 0;
  std::promise<void> last;
  {
    DeliveryScope together;
    for (int i = 0; i < 100; i++) {
      ASSERT_TRUE(pool.Run([&] {
                        if (++ran == 100) last.set_value();
                      })
                      .ok());
    }
  }
  last.get_future().wait();
  EXPECT_EQ(ran, 100);
}

TEST(WorkerPoolTest, AScopeMayOutliveThePool) {
  int ran = 0;
  DeliveryScope together;
  {
    WorkerPool pool(1, 10);
    ASSERT_TRUE(pool.Run([&] { ran++; }).ok());
  }
  EXPECT_EQ(ran, 1);
}

TEST(WorkerPoolTest, AWaitingTaskHoldsUpNoOther) {
  WorkerPool pool(2, 10);
  std::promise<void> other;
  std::promise<void> finished;
  ASSERT_TRUE(pool.Run([&] {
                    other.get_future().wait();
                    finished.set_value();
                  })
                  .ok());
  ASSERT_TRUE(pool.Run([&] { other.set_value(); }).ok());
  finished.get_future().wait();
}

}  // namespace
}  // namespace tauserve
