#include "server/config.h"

#include <fstream>
#include <vector>

#include "absl/flags/commandlineflag.h"
#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/reflection.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

ABSL_FLAG(std::string, config, "", "JSON file with flags by name; the command line wins");
ABSL_FLAG(std::string, model, "", "folder of the model to serve");
ABSL_FLAG(std::string, device, "auto", "auto, cpu or cuda");
ABSL_FLAG(std::string, listen, "127.0.0.1:50051", "address of the inference service; port 0: any");
ABSL_FLAG(std::string, control_listen, "127.0.0.1:50052",
          "address of the control service; whoever reaches it can abort requests");
ABSL_FLAG(std::string, metrics_listen, "127.0.0.1:9464", "address of /metrics");
ABSL_FLAG(int64_t, kv_cache_bytes, 0,
          "size of the KV cache; 0: 2 GiB, or one full context if that is more");
ABSL_FLAG(int32_t, max_batched_tokens, 2048, "tokens of one engine step");
ABSL_FLAG(int32_t, max_running_requests, 64, "requests of one engine step");
ABSL_FLAG(int32_t, max_waiting_requests, 256, "requests in the queue; more are refused");
ABSL_FLAG(int32_t, max_message_bytes, 64 << 20, "largest request message");
ABSL_FLAG(int32_t, threads, 0, "CPU threads of the kernels; 0: one for each core");
ABSL_FLAG(bool, prefix_cache, true, "keep full pages of prompts for later requests");
ABSL_FLAG(std::string, dtype, "auto",
          "operands of linear layers: float32, bfloat16, or auto: float32 on a CPU");
ABSL_FLAG(std::string, kv_dtype, "auto",
          "cached keys and values: float32, bfloat16, or auto: as the linear layers");
ABSL_FLAG(std::string, log_level, "info", "debug, info, warning, error or off");
ABSL_FLAG(absl::Duration, drain_timeout, absl::Seconds(30),
          "how long requests in flight may go on after SIGTERM");

namespace tauserve {
namespace {

// What a --config file may set.
constexpr const char* kNames[] = {"model",
                                  "device",
                                  "listen",
                                  "control_listen",
                                  "metrics_listen",
                                  "kv_cache_bytes",
                                  "max_batched_tokens",
                                  "max_running_requests",
                                  "max_waiting_requests",
                                  "max_message_bytes",
                                  "threads",
                                  "prefix_cache",
                                  "dtype",
                                  "kv_dtype",
                                  "log_level",
                                  "drain_timeout"};

template <typename... Args>
absl::Status Invalid(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat(args...));
}

absl::Status SetFlag(const std::string& file, const std::string& key, const nlohmann::json& value) {
  bool known = false;
  for (const char* name : kNames) known |= key == name;
  if (!known) return Invalid(file, ": unknown key '", key, "'");
  if (value.is_structured() || value.is_null()) {
    return Invalid(file, ": '", key, "' is ", value.dump(),
                   ", must be a string, number or boolean");
  }
  const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
  std::string error;
  if (!absl::FindCommandLineFlag(key)->ParseFrom(text, &error)) {
    return Invalid(file, ": '", key, "' is ", value.dump(), ": ", error);
  }
  return absl::OkStatus();
}

absl::Status ReadFile(const std::string& file) {
  std::ifstream stream(file);
  if (!stream) return Invalid("--config: ", file, " cannot be opened");
  const nlohmann::json json = nlohmann::json::parse(stream, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return Invalid(file, ": not a JSON object");
  for (const auto& [key, value] : json.items()) {
    if (absl::Status s = SetFlag(file, key, value); !s.ok()) return s;
  }
  return absl::OkStatus();
}

// The file comes first, so that the command line, parsed after it, wins.
std::string FindConfigFile(int argc, char** argv) {
  std::string file;
  for (int i = 1; i < argc; i++) {
    absl::string_view arg = argv[i];
    if (absl::StartsWith(arg, "--")) arg.remove_prefix(1);
    if (absl::StartsWith(arg, "-config=")) file = std::string(arg.substr(8));
    if (arg == "-config" && i + 1 < argc) file = argv[i + 1];
  }
  return file;
}

absl::Status CheckAddress(const char* name, const std::string& address) {
  const size_t colon = address.rfind(':');
  uint32_t port = 0;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port > 65535) {
    return Invalid("--", name, " is '", address, "', must be HOST:PORT");
  }
  return absl::OkStatus();
}

absl::Status CheckRange(const char* name, int64_t value, int64_t lo, int64_t hi) {
  if (value >= lo && value <= hi) return absl::OkStatus();
  return Invalid("--", name, " is ", value, ", must be in [", lo, ", ", hi, "]");
}

absl::StatusOr<DataType> ReadType(const char* name, const std::string& value, DataType automatic) {
  if (value == "auto") return automatic;
  if (value == "float32") return DataType::kFloat32;
  if (value == "bfloat16") return DataType::kBFloat16;
  return Invalid("--", name, " is '", value, "': choose auto, float32 or bfloat16");
}

absl::Status Check(const ServerConfig& c) {
  if (c.model.empty()) return Invalid("--model is not set: name the folder of a model");
  for (const absl::Status& s :
       {CheckAddress("listen", c.listen), CheckAddress("control_listen", c.control_listen),
        CheckAddress("metrics_listen", c.metrics_listen),
        CheckRange("kv_cache_bytes", c.kv_cache_bytes, 0, int64_t{1} << 50),
        CheckRange("max_batched_tokens", c.max_batched_tokens, 1, 1 << 20),
        CheckRange("max_running_requests", c.max_running_requests, 1, c.max_batched_tokens),
        CheckRange("max_waiting_requests", c.max_waiting_requests, 1, 1 << 20),
        CheckRange("max_message_bytes", c.max_message_bytes, 1 << 10, 1 << 30),
        CheckRange("threads", c.threads, 0, 1024)}) {
    if (!s.ok()) return s;
  }
  if (c.drain_timeout < absl::ZeroDuration()) {
    return Invalid("--drain_timeout is ", absl::FormatDuration(c.drain_timeout),
                   ", must not be negative");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ServerConfig> ReadConfig(int argc, char** argv) {
  const std::string file = FindConfigFile(argc, argv);
  if (!file.empty()) {
    if (absl::Status s = ReadFile(file); !s.ok()) return s;
  }
  const std::vector<char*> rest = absl::ParseCommandLine(argc, argv);
  if (rest.size() > 1) return Invalid("unexpected argument '", rest[1], "'");
  ServerConfig c;
  c.model = absl::GetFlag(FLAGS_model);
  c.device = absl::GetFlag(FLAGS_device);
  c.listen = absl::GetFlag(FLAGS_listen);
  c.control_listen = absl::GetFlag(FLAGS_control_listen);
  c.metrics_listen = absl::GetFlag(FLAGS_metrics_listen);
  c.kv_cache_bytes = absl::GetFlag(FLAGS_kv_cache_bytes);
  c.max_batched_tokens = absl::GetFlag(FLAGS_max_batched_tokens);
  c.max_running_requests = absl::GetFlag(FLAGS_max_running_requests);
  c.max_waiting_requests = absl::GetFlag(FLAGS_max_waiting_requests);
  c.max_message_bytes = absl::GetFlag(FLAGS_max_message_bytes);
  c.threads = absl::GetFlag(FLAGS_threads);
  c.prefix_cache = absl::GetFlag(FLAGS_prefix_cache);
  c.log_level = absl::GetFlag(FLAGS_log_level);
  c.drain_timeout = absl::GetFlag(FLAGS_drain_timeout);
  absl::StatusOr<DataType> type = ReadType("dtype", absl::GetFlag(FLAGS_dtype), DataType::kFloat32);
  if (!type.ok()) return type.status();
  c.compute_type = *type;
  type = ReadType("kv_dtype", absl::GetFlag(FLAGS_kv_dtype), c.compute_type);
  if (!type.ok()) return type.status();
  c.kv_type = *type;
  if (absl::Status s = Check(c); !s.ok()) return s;
  return c;
}

}  // namespace tauserve
