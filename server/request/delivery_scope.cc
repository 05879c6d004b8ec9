#include "server/request/delivery_scope.h"

#include <algorithm>

#include "kernels/check.h"

namespace tauserve {
namespace {

thread_local DeliveryScope* current = nullptr;

}  // namespace

DeliveryScope::DeliveryScope() {
  TAUSERVE_CHECK(current == nullptr, "a scope in another");
  current = this;
}

DeliveryScope::~DeliveryScope() {
  current = nullptr;
  for (const auto& wake : to_wake_) wake->notify_one();
}

void DeliveryScope::NotifyOne(const std::shared_ptr<std::condition_variable>& wake) {
  if (current == nullptr) return wake->notify_one();
  std::vector<std::shared_ptr<std::condition_variable>>& all = current->to_wake_;
  if (std::find(all.begin(), all.end(), wake) == all.end()) all.push_back(wake);
}

}  // namespace tauserve
