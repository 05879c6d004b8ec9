// The server's settings: command-line flags and a JSON file with the same names, checked, in one struct. Nothing else
// reads a flag.
#ifndef TAUSERVE_SERVER_CONFIG_H_
#define TAUSERVE_SERVER_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "kernels/tensor.h"

namespace tauserve {

struct ServerConfig {
  std::string model;  // folder
  std::string device;
  std::string listen;
  std::string control_listen;
  std::string metrics_listen;
  int64_t kv_cache_bytes = 0;
  int32_t max_batched_tokens = 0;  // 0: as the device likes
  int32_t max_running_requests = 0;
  int32_t max_waiting_requests = 0;
  int64_t max_waiting_prompt_tokens = 0;
  absl::Duration target_step_time;  // zero: none
  int32_t max_message_bytes = 0;
  int32_t threads = 0;
  bool prefix_cache = true;
  int64_t constraint_cache_bytes = 0;
  std::optional<DataType> compute_type;  // without: the device's choice
  std::optional<DataType> kv_type;       // without: as compute_type
  std::string chat_template;
  std::string tls_cert;  // empty: no TLS; then the next two are too
  std::string tls_key;
  std::string tls_client_ca;
  std::string auth_tokens_file;  // empty: no tokens
  int32_t max_concurrent_streams = 0;
  absl::Duration max_connection_age;
  absl::Duration max_connection_age_grace;
  std::string log_level;
  bool log_prompts = false;
  absl::Duration withdrawal_window;
  absl::Duration drain_timeout;
  absl::Duration stuck_after;
};

// Parses the command line (which wins) and the file that --config names. InvalidArgument with flag, or file and key,
// value and what is allowed.
absl::StatusOr<ServerConfig> ReadConfig(int argc, const char* const* argv);

// Whether the command line has `--name`, such as help.
bool AsksFor(absl::string_view name, int argc, const char* const* argv);

// All flags, with what they mean and their defaults.
std::string HelpText();

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_CONFIG_H_
