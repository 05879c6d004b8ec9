#include "kernels/cpu/thread_pool.h"

#include <omp.h>
#include <pthread.h>

#include "kernels/check.h"

namespace tauserve::cpu {
namespace {

// About 20 us: longer than the gap between two loops of a step, shorter than waking a thread costs anyone else.
constexpr int kSpins = 4000;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  TAUSERVE_CHECK(threads >= 1, "a thread pool needs a thread");
  for (int w = 1; w < threads; w++) workers_.emplace_back([this, w] { WorkerMain(w); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    published_.fetch_add(1, std::memory_order_release);
  }
  start_.notify_all();
  for (std::thread& t : workers_) t.join();
}

void ThreadPool::UseOneLibraryThread() {
  thread_local bool done = false;
  if (done) return;
  omp_set_num_threads(1);
  done = true;
}

void ThreadPool::Run(int64_t count, const void* task, Call call) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    task_ = task;
    call_ = call;
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
    working_ = static_cast<int>(workers_.size());
    remaining_.store(working_, std::memory_order_relaxed);
    generation_++;
    published_.fetch_add(1, std::memory_order_release);
  }
  start_.notify_all();
  TakeIndices(0);
  for (int i = 0; i < kSpins && remaining_.load(std::memory_order_acquire) > 0; i++) Pause();
  std::unique_lock<std::mutex> lock(mutex_);
  done_.wait(lock, [this] { return working_ == 0; });
}

void ThreadPool::TakeIndices(int worker) {
  while (true) {
    const int64_t i = next_.fetch_add(1, std::memory_order_relaxed);
    if (i >= count_) return;
    call_(task_, i, worker);
  }
}

void ThreadPool::WorkerMain(int worker) {
  pthread_setname_np(pthread_self(), "tau-kernels");  // for who looks at the process
  UseOneLibraryThread();
  uint64_t seen = 0;
  while (true) {
    for (int i = 0; i < kSpins && published_.load(std::memory_order_acquire) == seen; i++) Pause();
    {
      std::unique_lock<std::mutex> lock(mutex_);
      start_.wait(lock, [&] { return stop_ || generation_ != seen; });
      if (stop_) return;
      seen = generation_;
    }
    TakeIndices(worker);
    remaining_.fetch_sub(1, std::memory_order_release);
    std::lock_guard<std::mutex> lock(mutex_);
    if (--working_ == 0) done_.notify_one();
  }
}

}  // namespace tauserve::cpu
