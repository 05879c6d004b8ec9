#include "clients/cpp/bench/goodput.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"

namespace tauserve::bench {

absl::StatusOr<GoodputLimits> GoodputLimits::Parse(const std::vector<std::string>& words) {
  GoodputLimits limits;
  const std::pair<const char*, std::optional<double>*> kinds[] = {
      {"ttft", &limits.ttft}, {"itl", &limits.itl}, {"tpot", &limits.tpot}, {"e2e", &limits.e2e}};
  for (const std::string& word : words) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(word, absl::MaxSplits(':', 1));
    std::optional<double>* limit = nullptr;
    for (const auto& [name, place] : kinds) {
      if (parts.first == name) limit = place;
    }
    absl::Duration duration;
    if (limit == nullptr || !absl::ParseDuration(parts.second, &duration) ||
        duration <= absl::ZeroDuration()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "'", word, "' is no limit; such as ttft:500ms, itl:50ms, tpot:30ms or e2e:5s"));
    }
    if (*limit) return absl::InvalidArgumentError(absl::StrCat(parts.first, " has two limits"));
    *limit = absl::ToDoubleSeconds(duration);
  }
  return limits;
}

bool GoodputLimits::MetBy(const RequestRecord& record) const {
  if (!record.ok() || record.interrupted) return false;
  // Without a token there was no first one in time.
  if (ttft && (record.output_tokens == 0 || record.TimeToFirstToken() > *ttft)) return false;
  if (itl && record.LargestGap().value_or(0) > *itl) return false;
  if (tpot && record.TimePerOutputToken().value_or(0) > *tpot) return false;
  return !e2e || record.EndToEnd() <= *e2e;
}

}  // namespace tauserve::bench
