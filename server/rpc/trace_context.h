// The caller's trace, as W3C Trace Context hands it on in `traceparent`.
#ifndef TAUSERVE_SERVER_RPC_TRACE_CONTEXT_H_
#define TAUSERVE_SERVER_RPC_TRACE_CONTEXT_H_

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace tauserve {

// The trace id of "VERSION-TRACE_ID-PARENT_ID-FLAGS", 32 hexadecimal digits; nullopt where the recommendation says that
// the header is to be ignored: https://www.w3.org/TR/trace-context/#traceparent-header.
std::optional<std::string> TraceIdOf(absl::string_view traceparent);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_RPC_TRACE_CONTEXT_H_
