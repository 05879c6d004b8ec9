// What the engine gives out after a step goes out together: threads that take it on to clients are woken once, behind the
// last, and not by each of the step's tokens.
#ifndef TAUSERVE_SERVER_REQUEST_DELIVERY_SCOPE_H_
#define TAUSERVE_SERVER_REQUEST_DELIVERY_SCOPE_H_

#include <condition_variable>
#include <memory>
#include <vector>

namespace tauserve {

// One at a time lives on a thread.
class DeliveryScope {
 public:
  DeliveryScope();
  ~DeliveryScope();
  DeliveryScope(const DeliveryScope&) = delete;
  DeliveryScope& operator=(const DeliveryScope&) = delete;

  // Notifies one waiting thread: at once, or, where a scope lives on this thread, once at its end.
  static void NotifyOne(const std::shared_ptr<std::condition_variable>& wake);

 private:
  std::vector<std::shared_ptr<std::condition_variable>> to_wake_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_REQUEST_DELIVERY_SCOPE_H_
