#include "server/config.h"

#include <fstream>
#include <optional>
#include <string>

#include "absl/flags/commandlineflag.h"
#include "absl/flags/flag.h"
#include "absl/flags/reflection.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include "server/model/chat/chat_template.h"

ABSL_FLAG(std::string, config, "", "JSON file with flags by name; the command line wins");
ABSL_FLAG(std::string, model, "", "folder of the model to serve");
ABSL_FLAG(std::string, device, "auto", "auto, cpu or cuda");
ABSL_FLAG(std::string, listen, "127.0.0.1:50051", "address of the inference service; port 0: any");
ABSL_FLAG(
    std::string, control_listen, "127.0.0.1:50052",
    "address of the control service; whoever reaches it can abort requests, unless it asks for "
    "tokens");
ABSL_FLAG(std::string, metrics_listen, "127.0.0.1:9464", "address of /metrics");
ABSL_FLAG(
    int64_t, kv_cache_bytes, 0,
    "size of the KV cache; 0: on a CPU 2 GiB, or one full context if that is more; on a GPU nine "
    "tenths of the memory that the weights leave");
ABSL_FLAG(int32_t, max_batched_tokens, 0,
          "tokens of one engine step; 0: 2048 on a CPU, 8192 on a GPU");
ABSL_FLAG(int32_t, max_running_requests, 64,
          "requests of one engine step; of one with several candidates each counts");
ABSL_FLAG(int32_t, max_waiting_requests, 256, "requests in the queue; more are refused");
ABSL_FLAG(int64_t, max_waiting_prompt_tokens, 1 << 22,
          "tokens of the prompts in the queue; more are refused, but one alone");
ABSL_FLAG(absl::Duration, target_step_time, absl::Milliseconds(200),
          "prompts get so many tokens of a step that the others' next tokens come in this time; 0: "
          "as many as fit");
ABSL_FLAG(int32_t, max_message_bytes, 64 << 20, "largest request message");
ABSL_FLAG(int32_t, threads, 0, "CPU threads of the kernels; 0: one for each core");
ABSL_FLAG(bool, prefix_cache, true, "keep full pages of prompts for later requests");
ABSL_FLAG(int64_t, constraint_cache_bytes, 256 << 20,
          "of compiled constraints of structured outputs that are kept for later requests");
ABSL_FLAG(
    std::string, dtype, "auto",
    "operands of linear layers: float32, bfloat16, or auto: float32 on a CPU, bfloat16 on a GPU");
ABSL_FLAG(std::string, kv_dtype, "auto",
          "cached keys and values: float32, bfloat16, or auto: as the linear layers");
ABSL_FLAG(std::string, chat_template, "auto",
          absl::StrCat("how chats are written: auto, as the model's own template, or one of ",
                       tauserve::ChatTemplateNames()));
ABSL_FLAG(std::string, tls_cert, "",
          "PEM file of the server's certificate and the chain above it; both ports then speak TLS. "
          "Read again when it, the key or the client CA changes");
ABSL_FLAG(std::string, tls_key, "", "PEM file of the certificate's key");
ABSL_FLAG(std::string, tls_client_ca, "",
          "PEM file of authorities: clients must have a certificate of one of them");
ABSL_FLAG(std::string, auth_tokens_file, "",
          "lines of SHA256 SCOPE[,SCOPE] (tauserve-cli token makes them): calls need one of these "
          "tokens. Read again when it changes");
ABSL_FLAG(int32_t, max_concurrent_streams, 1024,
          "calls in flight of one connection; more wait in the client");
ABSL_FLAG(absl::Duration, max_connection_age, absl::InfiniteDuration(),
          "after which a connection takes no new calls; clients connect again by themselves");
ABSL_FLAG(absl::Duration, max_connection_age_grace, absl::Minutes(10),
          "how long calls of such a connection may go on");
ABSL_FLAG(std::string, log_level, "info", "debug, info, warning, error or off");
ABSL_FLAG(bool, log_prompts, false, "show prompts in the log, at --log_level=debug");
ABSL_FLAG(absl::Duration, withdrawal_window, absl::ZeroDuration(),
          "how long new requests are still taken after SIGTERM, while health already says "
          "NOT_SERVING: as long as load balancers need to notice");
ABSL_FLAG(absl::Duration, drain_timeout, absl::Seconds(30),
          "how long requests in flight may go on after SIGTERM and the withdrawal window");
ABSL_FLAG(
    absl::Duration, stuck_after, absl::Seconds(8),
    "an engine that has not moved for so long is stuck: health is NOT_SERVING until it moves");

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
                                  "max_waiting_prompt_tokens",
                                  "target_step_time",
                                  "max_message_bytes",
                                  "threads",
                                  "prefix_cache",
                                  "constraint_cache_bytes",
                                  "dtype",
                                  "kv_dtype",
                                  "chat_template",
                                  "tls_cert",
                                  "tls_key",
                                  "tls_client_ca",
                                  "auth_tokens_file",
                                  "max_concurrent_streams",
                                  "max_connection_age",
                                  "max_connection_age_grace",
                                  "log_level",
                                  "log_prompts",
                                  "withdrawal_window",
                                  "drain_timeout",
                                  "stuck_after"};

template <typename... Args>
absl::Status Invalid(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat(args...));
}

// Null for what is no flag of this program; Abseil has some of its own.
absl::CommandLineFlag* FindFlag(absl::string_view name) {
  for (const char* known : kNames) {
    if (name == known) return absl::FindCommandLineFlag(name);
  }
  return nullptr;
}

// What JSON must have for the flag, where it has something else.
const char* WrongType(const absl::CommandLineFlag& flag, const nlohmann::json& value) {
  if (flag.IsOfType<bool>()) return value.is_boolean() ? nullptr : "true or false";
  if (flag.IsOfType<int32_t>() || flag.IsOfType<int64_t>()) {
    return value.is_number_integer() ? nullptr : "an integer";
  }
  return value.is_string() ? nullptr : "a string";
}

absl::Status SetFlag(const std::string& file, const std::string& key, const nlohmann::json& value) {
  absl::CommandLineFlag* flag = FindFlag(key);
  if (flag == nullptr) return Invalid(file, ": unknown key '", key, "'");
  if (const char* expected = WrongType(*flag, value)) {
    return Invalid(file, ": '", key, "' is ", value.dump(), ", must be ", expected);
  }
  std::string error;
  if (!flag->ParseFrom(value.is_string() ? value.get<std::string>() : value.dump(), &error)) {
    return Invalid(file, ": '", key, "' is ", value.dump(), ": ", error);
  }
  return absl::OkStatus();
}

absl::Status ReadFile(const std::string& file) {
  std::ifstream stream(file);
  if (!stream) return Invalid("--config: ", file, " cannot be opened");
  const nlohmann::json json = nlohmann::json::parse(stream, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return Invalid(file, ": not valid JSON");
  if (!json.is_object()) return Invalid(file, ": not a JSON object");
  for (const auto& [key, value] : json.items()) {
    if (absl::Status s = SetFlag(file, key, value); !s.ok()) return s;
  }
  return absl::OkStatus();
}

// One argument, "--name=value" or "--name" (with what follows as its value, or as a switch).
struct Argument {
  absl::string_view name;
  std::optional<absl::string_view> value;
};

std::optional<Argument> Split(absl::string_view text) {
  if (!absl::ConsumePrefix(&text, "-")) return std::nullopt;
  absl::ConsumePrefix(&text, "-");
  const size_t equals = text.find('=');
  if (equals == absl::string_view::npos) return Argument{text, std::nullopt};
  return Argument{text.substr(0, equals), text.substr(equals + 1)};
}

// The value of the argument at `i`, which may be the next one; `i` then moves on. A switch needs none.
absl::StatusOr<std::string> ValueOf(const Argument& argument, const absl::CommandLineFlag& flag,
                                    int argc, const char* const* argv, int& i) {
  if (argument.value) return std::string(*argument.value);
  if (flag.IsOfType<bool>()) return std::string("true");
  if (i + 1 == argc) return Invalid("--", argument.name, " needs a value");
  return std::string(argv[++i]);
}

// Not Abseil's parser, because that ends the process by itself.
absl::Status ParseArguments(int argc, const char* const* argv) {
  for (int i = 1; i < argc; i++) {
    const std::optional<Argument> argument = Split(argv[i]);
    if (!argument) return Invalid("unexpected argument '", argv[i], "'");
    absl::CommandLineFlag* flag =
        argument->name == "config" ? absl::FindCommandLineFlag("config") : FindFlag(argument->name);
    if (flag == nullptr) return Invalid("unknown flag --", argument->name, "; see --help");
    absl::StatusOr<std::string> value = ValueOf(*argument, *flag, argc, argv, i);
    if (!value.ok()) return value.status();
    std::string error;
    if (!flag->ParseFrom(*value, &error)) {
      return Invalid("--", argument->name, " is '", *value, "': ", error);
    }
  }
  return absl::OkStatus();
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

absl::Status CheckNotBelow(const char* name, absl::Duration value, absl::Duration least) {
  if (value >= least) return absl::OkStatus();
  return Invalid("--", name, " is ", absl::FormatDuration(value), ", must be at least ",
                 absl::FormatDuration(least));
}

absl::Status CheckTls(const ServerConfig& c) {
  if (c.tls_cert.empty() != c.tls_key.empty()) {
    return Invalid("--", c.tls_cert.empty() ? "tls_key" : "tls_cert", " is set without --",
                   c.tls_cert.empty() ? "tls_cert" : "tls_key");
  }
  if (!c.tls_client_ca.empty() && c.tls_cert.empty()) {
    return Invalid("--tls_client_ca is set without --tls_cert and --tls_key");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<DataType>> ReadType(const char* name, const std::string& value) {
  if (value == "auto") return std::nullopt;
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
        CheckRange("max_batched_tokens", c.max_batched_tokens, 0, 1 << 20),
        CheckRange("max_running_requests", c.max_running_requests, 1,
                   c.max_batched_tokens > 0 ? c.max_batched_tokens : 1 << 20),
        CheckRange("max_waiting_requests", c.max_waiting_requests, 1, 1 << 20),
        CheckRange("max_waiting_prompt_tokens", c.max_waiting_prompt_tokens, 1, int64_t{1} << 40),
        CheckRange("constraint_cache_bytes", c.constraint_cache_bytes, 1 << 20, int64_t{1} << 40),
        CheckRange("max_message_bytes", c.max_message_bytes, 1 << 10, 1 << 30),
        CheckRange("max_concurrent_streams", c.max_concurrent_streams, 1, 1 << 20),
        CheckNotBelow("max_connection_age", c.max_connection_age, absl::Seconds(1)),
        CheckNotBelow("max_connection_age_grace", c.max_connection_age_grace, absl::ZeroDuration()),
        CheckNotBelow("stuck_after", c.stuck_after, absl::Milliseconds(100)), CheckTls(c),
        CheckRange("threads", c.threads, 0, 1024)}) {
    if (!s.ok()) return s;
  }
  if (c.device != "auto" && c.device != "cpu" && c.device != "cuda") {
    return Invalid("--device is '", c.device, "': choose auto, cpu or cuda");
  }
  if (c.chat_template != "auto" && FindChatFormat(c.chat_template) == nullptr) {
    return Invalid("--chat_template is '", c.chat_template, "': choose auto, ",
                   ChatTemplateNames());
  }
  for (const auto& [name, value] : {std::pair("withdrawal_window", c.withdrawal_window),
                                    std::pair("drain_timeout", c.drain_timeout),
                                    std::pair("target_step_time", c.target_step_time)}) {
    if (value < absl::ZeroDuration()) {
      return Invalid("--", name, " is ", absl::FormatDuration(value), ", must not be negative");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ServerConfig> ReadConfig(int argc, const char* const* argv) {
  if (absl::Status s = ParseArguments(argc, argv); !s.ok()) return s;
  const std::string file = absl::GetFlag(FLAGS_config);
  if (!file.empty()) {
    if (absl::Status s = ReadFile(file); !s.ok()) return s;
    // Once more, so that the command line wins.
    if (absl::Status s = ParseArguments(argc, argv); !s.ok()) return s;
  }
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
  c.max_waiting_prompt_tokens = absl::GetFlag(FLAGS_max_waiting_prompt_tokens);
  c.target_step_time = absl::GetFlag(FLAGS_target_step_time);
  c.max_message_bytes = absl::GetFlag(FLAGS_max_message_bytes);
  c.threads = absl::GetFlag(FLAGS_threads);
  c.prefix_cache = absl::GetFlag(FLAGS_prefix_cache);
  c.constraint_cache_bytes = absl::GetFlag(FLAGS_constraint_cache_bytes);
  c.chat_template = absl::GetFlag(FLAGS_chat_template);
  c.tls_cert = absl::GetFlag(FLAGS_tls_cert);
  c.tls_key = absl::GetFlag(FLAGS_tls_key);
  c.tls_client_ca = absl::GetFlag(FLAGS_tls_client_ca);
  c.auth_tokens_file = absl::GetFlag(FLAGS_auth_tokens_file);
  c.max_concurrent_streams = absl::GetFlag(FLAGS_max_concurrent_streams);
  c.max_connection_age = absl::GetFlag(FLAGS_max_connection_age);
  c.max_connection_age_grace = absl::GetFlag(FLAGS_max_connection_age_grace);
  c.log_prompts = absl::GetFlag(FLAGS_log_prompts);
  c.log_level = absl::GetFlag(FLAGS_log_level);
  c.withdrawal_window = absl::GetFlag(FLAGS_withdrawal_window);
  c.drain_timeout = absl::GetFlag(FLAGS_drain_timeout);
  c.stuck_after = absl::GetFlag(FLAGS_stuck_after);
  absl::StatusOr<std::optional<DataType>> type = ReadType("dtype", absl::GetFlag(FLAGS_dtype));
  if (!type.ok()) return type.status();
  c.compute_type = *type;
  type = ReadType("kv_dtype", absl::GetFlag(FLAGS_kv_dtype));
  if (!type.ok()) return type.status();
  c.kv_type = *type;
  if (absl::Status s = Check(c); !s.ok()) return s;
  return c;
}

bool AsksFor(absl::string_view name, int argc, const char* const* argv) {
  for (int i = 1; i < argc; i++) {
    const std::optional<Argument> argument = Split(argv[i]);
    if (argument && argument->name == name) return true;
  }
  return false;
}

std::string HelpText() {
  std::string text =
      "Serves a transformer with entmax attention over gRPC.\n"
      "  tauserve --model=DIR [--flag=value ...]\n\n"
      "  --config=FILE\n      " +
      absl::FindCommandLineFlag("config")->Help() + "\n";
  for (const char* name : kNames) {
    const absl::CommandLineFlag& flag = *absl::FindCommandLineFlag(name);
    absl::StrAppend(&text, "  --", name, "=", flag.DefaultValue(), "\n      ", flag.Help(), "\n");
  }
  return text + "  --version, --help\n";
}

}  // namespace tauserve
