// Progress bars of one line.
#ifndef TAUSERVE_CLIENTS_CPP_PROGRESS_BAR_H_
#define TAUSERVE_CLIENTS_CPP_PROGRESS_BAR_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace tauserve::client {

struct PrefillState {
  int64_t processed = 0;  // tokens of the prompt, those found in the cache included
  int64_t total = 0;
  int64_t cached = 0;  // cost no time, so they count for no rate
  double seconds = 0;  // since prefill began
};

// "prefill [#####-----] 8192/16384 tokens, 4711 tokens/s, 1.7 s left", the bar as wide as `columns`
// of the terminal let it be, within reason. No rate before anything has been computed.
std::string ProgressLine(const PrefillState& state, int columns);

// "label [#####-----] numbers", the same of anything.
std::string BarLine(absl::string_view label, double done, double total, absl::string_view numbers,
                    int columns);

}  // namespace tauserve::client

#endif  // TAUSERVE_CLIENTS_CPP_PROGRESS_BAR_H_
