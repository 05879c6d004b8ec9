// A few threads for what would keep others too long: parsing and tokenizing prompts of megabytes (5 MB/s or so) and calls that
// wait for the engine, which gRPC's threads must not do, and writes, which the engine must not.
#ifndef TAUSERVE_SERVER_RPC_WORKER_POOL_H_
#define TAUSERVE_SERVER_RPC_WORKER_POOL_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/status/status.h"

namespace tauserve {

// Thread-safe.
class WorkerPool {
 public:
  // At most `max_queued` tasks wait for a thread.
  WorkerPool(int threads, int max_queued);
  ~WorkerPool();  // runs what is queued to its end
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // `task` runs later, on one of the threads; tasks begin in the order in which they came. Given inside a DeliveryScope,
  // it wakes a thread at the scope's end, one for all of the scope's tasks. ResourceExhausted, with both numbers, if too
  // many wait already: `task` never runs then.
  absl::Status Run(std::function<void()> task);

 private:
  void Main();

  const int max_queued_;
  std::mutex mutex_;
  const std::shared_ptr<std::condition_variable> wake_;  // shared with scopes, which may end later
  std::deque<std::function<void()>> tasks_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_RPC_WORKER_POOL_H_
