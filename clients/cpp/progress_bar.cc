#include "clients/cpp/progress_bar.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tauserve::client {
namespace {

constexpr int kMinBar = 5;
constexpr int kMaxBar = 30;

}  // namespace

std::string ProgressLine(const PrefillState& state, int columns) {
  std::string numbers = absl::StrFormat("%d/%d tokens", state.processed, state.total);
  const int64_t computed = state.processed - state.cached;
  if (state.seconds > 0 && computed > 0) {
    const double rate = computed / state.seconds;
    absl::StrAppendFormat(&numbers, ", %.0f tokens/s", rate);
    if (state.processed < state.total) {
      absl::StrAppendFormat(&numbers, ", %.1f s left", (state.total - state.processed) / rate);
    }
  }
  return BarLine("prefill", state.processed, state.total, numbers, columns);
}

std::string BarLine(absl::string_view label, double done, double total, absl::string_view numbers,
                    int columns) {
  std::string line = absl::StrCat(label, " [");
  // A terminal's last column stays empty: a line that fills it would wrap.
  const int room = columns - 1 - static_cast<int>(line.size() + 2 + numbers.size());
  const int width = std::clamp(room, kMinBar, kMaxBar);
  const double share = total > 0 ? done / total : 1;
  const int filled = static_cast<int>(std::clamp(share, 0.0, 1.0) * width);
  absl::StrAppend(&line, std::string(filled, '#'), std::string(width - filled, '-'), "] ", numbers);
  return line;
}

}  // namespace tauserve::client
