// A fixed set of threads that run one parallel loop at a time. The calling thread takes part as worker 0. Not
// re-entrant; one caller at a time.
#ifndef TAUSERVE_KERNELS_CPU_THREAD_POOL_H_
#define TAUSERVE_KERNELS_CPU_THREAD_POOL_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace tauserve::cpu {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // >= 1, the caller's included
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }
  // Changes with every index that is taken. Any thread may look whether the loops get on.
  uint64_t progress() const {
    return alone_.load(std::memory_order_relaxed) + published_.load(std::memory_order_relaxed) +
           static_cast<uint64_t>(next_.load(std::memory_order_relaxed));
  }

  // Calls task(index, worker) for every index in [0, count), workers in [0, threads()), each index once, taken in
  // ascending order by whoever is free: put the costly ones first. Returns when all are done.
  template <typename Task>
  void ParallelFor(int64_t count, const Task& task) {
    UseOneLibraryThread();
    if (count <= 1 || workers_.empty()) {
      for (int64_t i = 0; i < count; i++) {
        alone_.store(alone_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
        task(i, 0);
      }
      return;
    }
    Run(count, &task, [](const void* t, int64_t index, int worker) {
      (*static_cast<const Task*>(t))(index, worker);
    });
  }

 private:
  using Call = void (*)(const void* task, int64_t index, int worker);

  // oneDNN runs inside our tasks, on one thread each. OpenMP keeps that for each thread that calls it.
  static void UseOneLibraryThread();
  void Run(int64_t count, const void* task, Call call);
  void WorkerMain(int worker);
  void TakeIndices(int worker);

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable start_;
  std::condition_variable done_;
  uint64_t generation_ = 0;  // of loops; guarded by mutex_
  int working_ = 0;          // workers still in the loop; guarded by mutex_
  bool stop_ = false;

  // The current loop; written under mutex_ before generation_ grows.
  const void* task_ = nullptr;
  Call call_ = nullptr;
  int64_t count_ = 0;
  std::atomic<int64_t> next_{0};
  std::atomic<uint64_t> alone_{
      0};  // indices that the caller ran without workers; written by it only

  // Lets workers and caller spin briefly before they sleep: steps follow each other within microseconds.
  std::atomic<uint64_t> published_{0};
  std::atomic<int> remaining_{0};
};

}  // namespace tauserve::cpu

#endif  // TAUSERVE_KERNELS_CPU_THREAD_POOL_H_
