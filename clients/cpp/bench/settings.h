// What a run of tauserve-bench is to do, from its flags.
#ifndef TAUSERVE_CLIENTS_CPP_BENCH_SETTINGS_H_
#define TAUSERVE_CLIENTS_CPP_BENCH_SETTINGS_H_

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "clients/cpp/bench/arrivals.h"
#include "clients/cpp/bench/goodput.h"
#include "clients/cpp/bench/length_distribution.h"
#include "clients/cpp/command_line.h"
#include "nlohmann/json.hpp"

namespace tauserve::bench {

struct Settings {
  // The load.
  std::optional<RateCurve> rate;  // unset: a closed loop
  double burstiness = 1;
  uint32_t max_concurrency = 0;  // 0: no limit
  uint64_t num_requests = std::numeric_limits<uint64_t>::max();
  double duration = std::numeric_limits<double>::infinity();
  uint32_t warmup_requests = 0;
  uint32_t retries = 0;
  uint32_t give_up_after = 0;  // 0: never
  uint32_t connections = 1;
  uint64_t seed = 0;

  // The requests.
  LengthDistribution prompt_tokens;
  LengthDistribution output_tokens;
  uint32_t prefix_tokens = 0;
  uint32_t num_prefixes = 1;
  std::string prompts_file;  // at most one of these two; else tokens are drawn
  std::string text_file;
  v1::GenerationInput parameters;

  // The report.
  GoodputLimits goodput;
  std::vector<double> percentiles;
  std::string json_file;
  bool records = false;
  std::string metrics;  // the address, or empty
  bool progress = false;
};

const client::Program& BenchProgram();

// From the process's flags. InvalidArgument or NotFound names the flag that is wrong.
absl::StatusOr<Settings> ReadSettings(const client::CommandLine& line);

// All of them, but for what is the connection's.
nlohmann::ordered_json SettingsJson(const Settings& settings);

// "open loop, 4 requests/s (Poisson), at most 64 in flight".
std::string DescribeLoad(const Settings& settings);
// "prompts of normal:512:128 tokens, random, behind 64 shared ones; output 64; seed 1".
std::string DescribeRequests(const Settings& settings);

}  // namespace tauserve::bench

#endif  // TAUSERVE_CLIENTS_CPP_BENCH_SETTINGS_H_
