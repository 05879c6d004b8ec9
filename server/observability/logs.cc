#include "server/observability/logs.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace tauserve {
namespace {

spdlog::logger& Logger() {
  static spdlog::logger& logger = [&]() -> spdlog::logger& {
    auto l = spdlog::stderr_logger_mt("tauserve");
    l->set_pattern("%v");
    return *l;
  }();
  return logger;
}

void Log(spdlog::level::level_enum level, const char* name, const std::string& event,
         nlohmann::json fields) {
  if (!Logger().should_log(level)) return;
  nlohmann::ordered_json line;
  line["time"] = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
  line["level"] = name;
  line["event"] = event;
  for (const auto& [key, value] : fields.items()) line[key] = value;
  // Text that is not UTF-8 must not make a log line throw.
  Logger().log(level, "{}", line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

}  // namespace

absl::Status InitializeLogs(const std::string& level) {
  for (auto [name, value] :
       {std::pair("debug", spdlog::level::debug), std::pair("info", spdlog::level::info),
        std::pair("warning", spdlog::level::warn), std::pair("error", spdlog::level::err),
        std::pair("off", spdlog::level::off)}) {
    if (level != name) continue;
    Logger().set_level(value);
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("log_level is '", level, "': choose debug, info, warning, error or off"));
}

void LogDebug(const std::string& event, nlohmann::json fields) {
  Log(spdlog::level::debug, "debug", event, std::move(fields));
}
void LogInfo(const std::string& event, nlohmann::json fields) {
  Log(spdlog::level::info, "info", event, std::move(fields));
}
void LogWarning(const std::string& event, nlohmann::json fields) {
  Log(spdlog::level::warn, "warning", event, std::move(fields));
}
void LogError(const std::string& event, nlohmann::json fields) {
  Log(spdlog::level::err, "error", event, std::move(fields));
}

}  // namespace tauserve
