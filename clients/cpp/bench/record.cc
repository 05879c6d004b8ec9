#include "clients/cpp/bench/record.h"

#include <algorithm>

namespace tauserve::bench {

void RequestRecord::OnTokens(double now, uint32_t count) {
  if (count == 0) return;
  if (output_tokens == 0) {
    first_token = last_token = now;
    gaps.reserve(asked_tokens);
    gaps.insert(gaps.end(), count - 1, 0.0f);
  } else {
    gaps.insert(gaps.end(), count, static_cast<float>((now - last_token) / count));
  }
  last_token = now;
  output_tokens += count;
  deltas++;
}

void RequestRecord::ForgetAttempt() {
  output_tokens = deltas = 0;
  gaps.clear();
  completed.reset();
  finish_reason = v1::FINISH_REASON_UNSPECIFIED;
}

std::optional<double> RequestRecord::TimePerOutputToken() const {
  if (output_tokens < 2) return std::nullopt;
  return (last_token - first_token) / (output_tokens - 1);
}

std::optional<double> RequestRecord::LargestGap() const {
  if (gaps.empty()) return std::nullopt;
  return *std::max_element(gaps.begin(), gaps.end());
}

}  // namespace tauserve::bench
