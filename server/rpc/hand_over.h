// What gRPC's threads do with an object one after the other, gRPC has ordered; but it is not instrumented, and to the thread
// sanitizer it looks unordered. Each of them passes here when it begins and ends; in other builds that is nothing.
#ifndef TAUSERVE_SERVER_RPC_HAND_OVER_H_
#define TAUSERVE_SERVER_RPC_HAND_OVER_H_

#include <atomic>
#include <cstdint>

namespace tauserve {

inline void PassHandOver([[maybe_unused]] const void* object) {
#ifdef __SANITIZE_THREAD__
  static std::atomic<int> passes[64];  // not of the object: how it is made looks unordered as well
  passes[reinterpret_cast<uintptr_t>(object) / 64 % 64].fetch_add(1, std::memory_order_acq_rel);
#endif
}

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_RPC_HAND_OVER_H_
