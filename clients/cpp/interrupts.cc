#include "clients/cpp/interrupts.h"

#include <cstdlib>
#include <thread>
#include <utility>

namespace tauserve::client {

sigset_t BlockInterrupts() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

const std::atomic<int>& OnInterrupt(const sigset_t& signals, std::function<bool()> end) {
  static std::atomic<int> received = 0;
  std::thread([signals, end = std::move(end)] {
    int signal = 0;
    sigwait(&signals, &signal);
    received = signal;
    if (end()) sigwait(&signals, &signal);
    std::_Exit(128 + signal);
  }).detach();
  return received;
}

}  // namespace tauserve::client
