#include "kernels/cpu/thread_pool.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

namespace tauserve::cpu {
namespace {

TEST(ThreadPoolTest, RunsEachIndexOnceOnAKnownWorker) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 200; round++) {
      const int count = round % 50;
      std::vector<std::atomic<int>> calls(count);
      std::atomic<bool> bad_worker{false};
      pool.ParallelFor(count, [&](int64_t i, int worker) {
        calls[i]++;
        if (worker < 0 || worker >= threads) bad_worker = true;
      });
      for (int i = 0; i < count; i++) ASSERT_EQ(calls[i], 1);
      ASSERT_FALSE(bad_worker);
    }
  }
}

TEST(ThreadPoolTest, ProgressShowsWithinALoop) {
  for (int threads : {1, 2}) {
    for (int count : {1, 5}) {
      ThreadPool pool(threads);
      uint64_t before = pool.progress();
      for (int loop = 0; loop < 3; loop++) {
        // Each index takes turns with the others, or changes what is seen.
        std::atomic<int> same{0};
        std::mutex mutex;
        pool.ParallelFor(count, [&](int64_t, int) {
          std::lock_guard<std::mutex> lock(mutex);
          const uint64_t now = pool.progress();
          same += now == before;
          before = now;
        });
        // Two workers that have both taken an index see the same.
        EXPECT_LE(same, threads == 1 ? 0 : count - 1);
      }
    }
  }
}

TEST(ThreadPoolTest, WritesOfTasksAreSeenByTheCaller) {
  ThreadPool pool(4);
  std::vector<int64_t> plain(1000, 0);
  for (int64_t round = 1; round <= 100; round++) {
    pool.ParallelFor(plain.size(), [&](int64_t i, int) { plain[i] += i; });
    for (size_t i = 0; i < plain.size(); i++) ASSERT_EQ(plain[i], round * static_cast<int64_t>(i));
  }
}

// Whoever calls, and also where nothing is shared out: else oneDNN would use all cores beside ours.
TEST(ThreadPoolTest, LibrariesGetOneThread) {
  for (int threads : {1, 2}) {
    for (int count : {1, 5}) {
      ThreadPool pool(threads);
      std::atomic<int> most{0};
      std::thread caller([&] {
        pool.ParallelFor(count, [&](int64_t, int) {
          if (omp_get_max_threads() > most) most = omp_get_max_threads();
        });
      });
      caller.join();
      EXPECT_EQ(most, 1) << threads << " threads, " << count << " tasks";
    }
  }
}

}  // namespace
}  // namespace tauserve::cpu
