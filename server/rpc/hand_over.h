// What gRPC's threads do with an object one after the other, gRPC has ordered; but it is not instrumented, and to the thread
// sanitizer it looks unordered. Each of them passes here when it begins and ends.
#ifndef TAUSERVE_SERVER_RPC_HAND_OVER_H_
#define TAUSERVE_SERVER_RPC_HAND_OVER_H_

#include <atomic>

namespace tauserve {

class HandOver {
 public:
  void Pass() { passes_.fetch_add(1, std::memory_order_acq_rel); }

 private:
  std::atomic<int> passes_ = 0;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_RPC_HAND_OVER_H_
