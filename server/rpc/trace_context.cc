#include "server/rpc/trace_context.h"

#include <algorithm>

namespace tauserve {
namespace {

// Where the fields of version 00 are; later versions may add more behind them.
constexpr size_t kTraceId = 3, kTraceIdSize = 32;
constexpr size_t kParentId = 36, kParentIdSize = 16;
constexpr size_t kFlags = 53, kFlagsSize = 2;
constexpr size_t kSize = kFlags + kFlagsSize;

bool IsHex(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');  // lower case only
  });
}

bool IsId(absl::string_view text) {
  return IsHex(text) && text.find_first_not_of('0') != absl::string_view::npos;
}

}  // namespace

std::optional<std::string> TraceIdOf(absl::string_view traceparent) {
  if (traceparent.size() < kSize) return std::nullopt;
  for (size_t dash : {kTraceId - 1, kParentId - 1, kFlags - 1}) {
    if (traceparent[dash] != '-') return std::nullopt;
  }
  const absl::string_view version = traceparent.substr(0, kTraceId - 1);
  if (!IsHex(version) || version == "ff") return std::nullopt;
  if (traceparent.size() > kSize && (version == "00" || traceparent[kSize] != '-')) {
    return std::nullopt;
  }
  const absl::string_view id = traceparent.substr(kTraceId, kTraceIdSize);
  if (!IsId(id) || !IsId(traceparent.substr(kParentId, kParentIdSize)) ||
      !IsHex(traceparent.substr(kFlags, kFlagsSize))) {
    return std::nullopt;
  }
  return std::string(id);
}

}  // namespace tauserve
