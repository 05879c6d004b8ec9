// SIGINT and SIGTERM of a program whose calls are to end in good order.
#ifndef TAUSERVE_CLIENTS_CPP_INTERRUPTS_H_
#define TAUSERVE_CLIENTS_CPP_INTERRUPTS_H_

#include <atomic>
#include <csignal>
#include <functional>

namespace tauserve::client {

// Blocks them in this thread and in all that it makes later, gRPC's too, so that one thread can wait
// for them.
sigset_t BlockInterrupts();

// On the first signal a thread calls `end`, which says whether there was something to end. If there
// was not, or at the second signal, it ends the process. Returns the signal, 0 as long as there was
// none. Once a process.
const std::atomic<int>& OnInterrupt(const sigset_t& signals, std::function<bool()> end);

}  // namespace tauserve::client

#endif  // TAUSERVE_CLIENTS_CPP_INTERRUPTS_H_
