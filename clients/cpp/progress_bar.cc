#include "clients/cpp/progress_bar.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace tauserve::client {

std::string ProgressLine(int64_t processed, int64_t total, double seconds) {
  constexpr int kWidth = 30;
  const double share = total > 0 ? std::min(1.0, static_cast<double>(processed) / total) : 1;
  const int filled = static_cast<int>(share * kWidth);
  std::string line = absl::StrFormat("prefill [%s%s] %d/%d tokens", std::string(filled, '#'),
                                     std::string(kWidth - filled, '-'), processed, total);
  if (seconds > 0 && processed > 0) {
    const double rate = processed / seconds;
    absl::StrAppendFormat(&line, ", %.0f tokens/s", rate);
    if (processed < total)
      absl::StrAppendFormat(&line, ", %.1f s left", (total - processed) / rate);
  }
  return line;
}

}  // namespace tauserve::client
