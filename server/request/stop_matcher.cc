#include "server/request/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace tauserve {
namespace {

// Length of the longest end of `text` that is a proper beginning of `stop`.
size_t PartialMatch(const std::string& text, const std::string& stop) {
  for (size_t n = std::min(text.size(), stop.size() - 1); n > 0; n--) {
    if (text.compare(text.size() - n, n, stop, 0, n) == 0) return n;
  }
  return 0;
}

}  // namespace

std::string StopMatcher::Append(const std::string& piece, bool armed) {
  if (matched_) return "";
  held_ += piece;
  if (!armed) unarmed_ = held_.size();
  // The stop string that is complete first wins, however the text was cut; of those that end together, the longest.
  size_t first_end = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t from = unarmed_ < stop.size() ? 0 : unarmed_ + 1 - stop.size();
    const size_t at = held_.find(stop, from);
    if (at == std::string::npos) continue;
    const size_t end = at + stop.size();
    if (end < first_end || (end == first_end && stop.size() > match_.size())) {
      first_end = end;
      match_ = stop;
    }
  }
  if (first_end != std::string::npos) {
    matched_ = true;
    held_.resize(first_end - (include_stop_ ? 0 : match_.size()));
    return std::exchange(held_, "");
  }
  size_t keep = 0;
  for (const std::string& stop : stops_) keep = std::max(keep, PartialMatch(held_, stop));
  const size_t show = held_.size() - keep;
  std::string shown = held_.substr(0, show);
  held_.erase(0, show);
  unarmed_ -= std::min(unarmed_, show);
  return shown;
}

std::string StopMatcher::Flush() { return std::exchange(held_, ""); }

}  // namespace tauserve
