// A one-line progress bar for a long prefill.
#ifndef TAUSERVE_CLIENTS_CPP_PROGRESS_BAR_H_
#define TAUSERVE_CLIENTS_CPP_PROGRESS_BAR_H_

#include <cstdint>
#include <string>

namespace tauserve::client {

// "prefill [#####-----] 8192/16384 tokens, 4711 tokens/s, 1.7 s left"; without a rate while `seconds` is 0.
std::string ProgressLine(int64_t processed, int64_t total, double seconds);

}  // namespace tauserve::client

#endif  // TAUSERVE_CLIENTS_CPP_PROGRESS_BAR_H_
