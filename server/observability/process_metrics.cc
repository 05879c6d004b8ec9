#include "server/observability/process_metrics.h"

#include <prometheus/metric_family.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <string>
#include <system_error>
#include <utility>

namespace tauserve {
namespace {

// Of proc(5)'s /proc/PID/stat, counted from 1.
constexpr int kFirstField = 3;  // after the command's name, which may hold spaces and brackets
constexpr int kUserTicks = 14, kSystemTicks = 15, kStartTicks = 22, kResidentPages = 24;

// The fields from kFirstField on; empty if there is no such file.
std::vector<std::string> ReadStat() {
  std::ifstream file("/proc/self/stat");
  std::string text(std::istreambuf_iterator<char>(file), {});
  std::istringstream fields(text.substr(text.rfind(')') + 1));
  return {std::istream_iterator<std::string>(fields), {}};
}

std::optional<double> Field(const std::vector<std::string>& stat, int field) {
  const size_t i = field - kFirstField;
  if (i >= stat.size()) return std::nullopt;
  return std::stod(stat[i]);
}

// When the machine started, in seconds since the epoch.
std::optional<double> BootTime() {
  std::ifstream file("/proc/stat");
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream fields(line);
    std::string key;
    double seconds = 0;
    if (fields >> key >> seconds && key == "btime") return seconds;
  }
  return std::nullopt;
}

std::optional<double> OpenFiles() {
  std::error_code error;
  std::filesystem::directory_iterator files("/proc/self/fd", error);
  if (error) return std::nullopt;
  return std::distance(begin(files), end(files)) - 1;  // without the folder's own
}

std::optional<double> MaxFiles() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return std::nullopt;
  return limit.rlim_cur;
}

double TicksPerSecond() { return sysconf(_SC_CLK_TCK); }

}  // namespace

// Once: the time of the machine's start, which it is computed from, moves when the clock is set.
Metrics::ProcessMetrics::ProcessMetrics() {
  const std::optional<double> boot = BootTime(), ticks = Field(ReadStat(), kStartTicks);
  start_seconds_ = boot && ticks ? *boot + *ticks / TicksPerSecond() : 0;
}

std::vector<prometheus::MetricFamily> Metrics::ProcessMetrics::Collect() const {
  std::vector<prometheus::MetricFamily> families;
  auto add = [&](const char* name, const char* help, std::optional<double> value,
                 prometheus::MetricType type = prometheus::MetricType::Gauge) {
    if (!value) return;
    prometheus::ClientMetric metric;
    metric.gauge.value = metric.counter.value = *value;
    families.push_back({name, help, type, {std::move(metric)}});
  };
  const std::vector<std::string> stat = ReadStat();
  const std::optional<double> user = Field(stat, kUserTicks), system = Field(stat, kSystemTicks),
                              pages = Field(stat, kResidentPages);
  if (user && system) {
    add("process_cpu_seconds_total", "CPU time of all threads, in user and system mode.",
        (*user + *system) / TicksPerSecond(), prometheus::MetricType::Counter);
  }
  if (pages) {
    add("process_resident_memory_bytes", "Memory that the process has in RAM.",
        *pages * sysconf(_SC_PAGESIZE));
  }
  if (start_seconds_ > 0) {
    add("process_start_time_seconds", "When the process started, since the epoch.", start_seconds_);
  }
  add("process_open_fds", "Open file descriptors.", OpenFiles());
  add("process_max_fds", "Most file descriptors that may be open.", MaxFiles());
  return families;
}

}  // namespace tauserve
