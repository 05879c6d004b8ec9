// Logs: JSON lines on stderr. Generated text is never in them, and prompts only with --log_prompts.
#ifndef TAUSERVE_SERVER_OBSERVABILITY_LOGS_H_
#define TAUSERVE_SERVER_OBSERVABILITY_LOGS_H_

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace tauserve {

// `level`: debug, info, warning, error or off. InvalidArgument otherwise.
absl::Status InitializeLogs(const std::string& level);

// One line: time, level, event, and `fields`.
void LogDebug(const std::string& event, nlohmann::json fields = nlohmann::json::object());
void LogInfo(const std::string& event, nlohmann::json fields = nlohmann::json::object());
void LogWarning(const std::string& event, nlohmann::json fields = nlohmann::json::object());
void LogError(const std::string& event, nlohmann::json fields = nlohmann::json::object());

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_OBSERVABILITY_LOGS_H_
