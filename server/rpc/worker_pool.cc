#include "server/rpc/worker_pool.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/request/delivery_scope.h"

namespace tauserve {

WorkerPool::WorkerPool(int threads, int max_queued)
    : max_queued_(max_queued), wake_(std::make_shared<std::condition_variable>()) {
  for (int i = 0; i < threads; i++) threads_.emplace_back([this] { Main(); });
}

WorkerPool::~WorkerPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    wake_->notify_all();
  }
  for (std::thread& t : threads_) t.join();
}

absl::Status WorkerPool::Run(std::function<void()> task) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (tasks_.size() >= max_queued_) {
      return absl::ResourceExhaustedError(absl::StrCat("the server is busy: ", tasks_.size(),
                                                       " calls wait for a thread, the limit is ",
                                                       max_queued_));
    }
    tasks_.push_back(std::move(task));
  }
  DeliveryScope::NotifyOne(wake_);
  return absl::OkStatus();
}

void WorkerPool::Main() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    wake_->wait(lock, [this] { return stop_ || !tasks_.empty(); });
    if (tasks_.empty()) return;
    std::function<void()> task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    task();
    task = nullptr;  // what it holds goes outside the lock
    lock.lock();
  }
}

}  // namespace tauserve
