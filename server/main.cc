// tauserve: flags -> config -> build bottom-up -> serve. On SIGTERM or SIGINT it says NOT_SERVING, still takes requests for
// the withdrawal window, then none, lets those in flight end, and exits. A second signal ends it at once.
#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "kernels/backend.h"
#include "nlohmann/json.hpp"
#include "server/admission/admission.h"
#include "server/config.h"
#include "server/constraint/constraint_cache.h"
#include "server/engine/engine.h"
#include "server/model/chat/chat_template.h"
#include "server/model/generation_config.h"
#include "server/model/tokenizer/tokenizer.h"
#include "server/model/transformer.h"
#include "server/observability/logs.h"
#include "server/observability/metrics.h"
#include "server/observability/metrics_server.h"
#include "server/rpc/rpc_server.h"

namespace tauserve {
namespace {

constexpr char kVersion[] = TAUSERVE_VERSION;
constexpr char kCommit[] = TAUSERVE_COMMIT;

std::string MakeInstanceId() {
  std::random_device device;
  return absl::StrFormat("%08x%08x", device(), device());
}

// SIGTERM and SIGINT, which all threads block, are taken by one that waits for them. It lives as long as the process, so
// what it touches is its own.
class StopSignal {
 public:
  StopSignal() {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    std::thread([signals, why = why_]() mutable {
      int signal = 0;
      sigwait(&signals, &signal);
      {
        std::lock_guard<std::mutex> lock(why->mutex);
        why->signal = signal;
        why->changed.notify_all();
      }
      sigwait(&signals, &signal);
      std::_Exit(128 + signal);
    }).detach();
  }
  // The device failed.
  void Fail(const absl::Status& failure) {
    std::lock_guard<std::mutex> lock(why_->mutex);
    why_->failure = failure;
    why_->changed.notify_all();
  }
  // Waits for either; the signal, or 0.
  int Wait() {
    std::unique_lock<std::mutex> lock(why_->mutex);
    why_->changed.wait(lock, [this] { return why_->signal != 0 || !why_->failure.ok(); });
    return why_->signal;
  }
  // Lets `window` pass, unless the device fails.
  void WaitForFailure(absl::Duration window) {
    std::unique_lock<std::mutex> lock(why_->mutex);
    why_->changed.wait_for(lock, absl::ToChronoNanoseconds(std::min(window, absl::Hours(24 * 365))),
                           [this] { return !why_->failure.ok(); });
  }
  absl::Status failure() const {
    std::lock_guard<std::mutex> lock(why_->mutex);
    return why_->failure;
  }

 private:
  struct Why {
    std::mutex mutex;
    std::condition_variable changed;
    int signal = 0;
    absl::Status failure;
  };
  std::shared_ptr<Why> why_ = std::make_shared<Why>();
};

// What a server is made of, in order of construction; destroyed in the opposite order.
struct Server {
  std::vector<std::pair<std::string, absl::Duration>>
      phases;  // of the start, and how long they took
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Tokenizer> tokenizer;
  ChatTemplate chat_template;
  std::unique_ptr<LanguageModel> model;
  std::unique_ptr<Metrics> metrics;
  std::unique_ptr<MetricsServer> metrics_server;
  std::unique_ptr<ConstraintCache> constraints;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Admission> admission;
  RpcSecurity security;
  std::unique_ptr<RpcServer> rpc;
};

bool IsLoopback(absl::string_view address) {
  return absl::StartsWith(address, "127.") || absl::StartsWith(address, "localhost:") ||
         absl::StartsWith(address, "[::1]:");
}

// Says what a certificate's date or a flag's absence does to clients; neither is an error.
void WarnOfSecurity(const ServerConfig& config, const RpcSecurity& security) {
  if (security.tls != nullptr && security.tls->value()->expires < absl::Now()) {
    LogWarning(
        "tls_certificate_expired",
        {{"file", config.tls_cert}, {"expired", absl::FormatTime(security.tls->value()->expires)}});
  }
  if (security.tokens == nullptr || security.tls != nullptr) return;
  for (const std::string& address : {config.listen, config.control_listen}) {
    if (IsLoopback(address)) continue;
    LogWarning("tokens_without_tls",
               {{"address", address},
                {"message", "whoever sees the traffic can read the tokens: set --tls_cert"}});
  }
}

// Before the model is loaded, so that a wrong file is told at once.
absl::Status LoadSecurity(const ServerConfig& config, RpcSecurity& security) {
  if (!config.tls_cert.empty()) {
    const TlsPaths paths = {config.tls_cert, config.tls_key, config.tls_client_ca};
    auto tls = Watched<TlsFiles>::Start("tls_files", {paths.cert, paths.key, paths.client_ca},
                                        [paths] { return ReadTlsFiles(paths); });
    if (!tls.ok()) return tls.status();
    security.tls = *std::move(tls);
  }
  if (!config.auth_tokens_file.empty()) {
    const std::string file = config.auth_tokens_file;
    auto tokens =
        Watched<TokenSet>::Start("auth_tokens", {file}, [file] { return TokenSet::Read(file); });
    if (!tokens.ok()) return tokens.status();
    security.tokens = *std::move(tokens);
  }
  WarnOfSecurity(config, security);
  return absl::OkStatus();
}

// Chunks of a prompt shorter than a GPU's multiprocessors have work for leave part of them idle.
int32_t MaxBatchedTokens(const ServerConfig& config, const DeviceInfo& device) {
  if (config.max_batched_tokens > 0) return config.max_batched_tokens;
  return device.own_memory ? 8192 : 2048;
}

absl::Status Load(const ServerConfig& config, Server& s) {
  absl::Time begin = absl::Now();
  auto done = [&](const char* phase) {
    const absl::Time now = absl::Now();
    s.phases.emplace_back(phase, now - begin);
    begin = now;
  };
  BackendOptions backend;
  backend.device = config.device;
  backend.threads = config.threads;
  backend.compute_type = config.compute_type;
  backend.kv_type = config.kv_type;
  absl::Status gpu_refused;
  absl::StatusOr<std::unique_ptr<Backend>> created = CreateBackend(backend, &gpu_refused);
  if (!created.ok()) return created.status();
  if (!gpu_refused.ok()) {
    LogWarning("gpu_not_used", {{"message", std::string(gpu_refused.message())}});
  }
  s.backend = *std::move(created);
  done("backend");
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = LoadTokenizer(config.model);
  if (!tokenizer.ok()) return tokenizer.status();
  s.tokenizer = *std::move(tokenizer);
  absl::StatusOr<ChatTemplate> chat =
      ChatTemplate::Load(config.model, config.chat_template, s.tokenizer.get());
  if (!chat.ok()) return chat.status();
  s.chat_template = *std::move(chat);
  done("tokenizer");
  ModelOptions options;
  options.max_batched_tokens = MaxBatchedTokens(config, s.backend->device());
  options.kv_cache_bytes = config.kv_cache_bytes;
  absl::StatusOr<std::unique_ptr<LanguageModel>> model =
      LoadModel(config.model, s.backend.get(), options);
  if (!model.ok()) return model.status();
  s.model = *std::move(model);
  done("model");
  if (s.tokenizer->vocab_size() > s.model->info().vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat(config.model, ": the tokenizer has ", s.tokenizer->vocab_size(),
                     " tokens, the model's vocab_size is ", s.model->info().vocab_size));
  }
  return absl::OkStatus();
}

void LogChatTemplate(const ChatTemplate& chat) {
  if (!chat.status().ok()) {
    LogInfo("no_chat_template", {{"message", std::string(chat.status().message())}});
  } else if (!chat.text_markers().empty()) {
    LogWarning(
        "chat_markers_are_text",
        {{"chat_template", chat.name()},
         {"markers", chat.text_markers()},
         {"message", "the tokenizer has no tokens for these: messages with them are refused"}});
  }
}

EngineOptions EngineOptionsOf(const ServerConfig& config, const DeviceInfo& device) {
  EngineOptions options;
  options.max_batched_tokens = MaxBatchedTokens(config, device);
  options.max_running_requests = std::min(config.max_running_requests, options.max_batched_tokens);
  options.max_waiting_requests = config.max_waiting_requests;
  options.max_waiting_prompt_tokens = config.max_waiting_prompt_tokens;
  options.target_step_time = config.target_step_time;
  options.enable_prefix_cache = config.prefix_cache;
  return options;
}

absl::Status Serve(const ServerConfig& config, absl::Time start, StopSignal& stop, Server& s) {
  const absl::Time services_start = absl::Now();
  const ModelInfo& info = s.model->info();
  s.metrics = std::make_unique<Metrics>(info.name);
  s.metrics->SetBuildInfo(kVersion, kCommit, s.backend->device().name);
  s.metrics->SetModelInfo(info.architecture, info.parameters, info.alpha_min, info.alpha_max,
                          info.max_context_tokens);
  for (const auto& [phase, duration] : s.phases) s.metrics->SetStartupSeconds(phase, duration);
  absl::StatusOr<GenerationConfig> generation = LoadGenerationConfig(config.model, info.vocab_size);
  if (!generation.ok()) return generation.status();
  EngineOptions options = EngineOptionsOf(config, s.backend->device());
  options.on_failure = [&stop](const absl::Status& failure) { stop.Fail(failure); };
  s.engine = std::make_unique<Engine>(options, s.model.get(), s.tokenizer.get(), s.metrics.get());
  Engine* engine = s.engine.get();
  s.metrics->SetLoadSource([engine] {
    const EngineLoad load = engine->load();
    return LoadSnapshot{load.running_requests, load.waiting_requests, load.waiting_prompt_tokens,
                        load.pages_total,      load.pages_free,       load.last_step,
                        load.draining,         engine->phase_time()};
  });
  absl::StatusOr<std::unique_ptr<MetricsServer>> metrics_server =
      MetricsServer::Start(config.metrics_listen, *s.metrics);
  if (!metrics_server.ok()) return metrics_server.status();
  s.metrics_server = *std::move(metrics_server);
  const int64_t cache_tokens = int64_t{s.model->num_pages()} * kPageTokens;
  const int32_t context =
      static_cast<int32_t>(std::min<int64_t>(info.max_context_tokens, cache_tokens));
  s.constraints = std::make_unique<ConstraintCache>(s.tokenizer.get(), info.vocab_size,
                                                    config.constraint_cache_bytes, s.metrics.get());
  s.admission = std::make_unique<Admission>(&info, s.tokenizer.get(), std::move(s.chat_template),
                                            generation->sampling, context, s.constraints.get());
  RpcOptions rpc;
  rpc.listen = config.listen;
  rpc.control_listen = config.control_listen;
  rpc.max_message_bytes = config.max_message_bytes;
  rpc.max_concurrent_streams = config.max_concurrent_streams;
  rpc.max_connection_age = config.max_connection_age;
  rpc.max_connection_age_grace = config.max_connection_age_grace;
  rpc.security = s.security;
  rpc.stuck_after = config.stuck_after;
  ServerInfo server_info{kVersion,
                         kCommit,
                         MakeInstanceId(),
                         start,
                         s.backend->device().name,
                         CompiledDevices(),
                         EngineOptionsOf(config, s.backend->device())};
  absl::StatusOr<std::unique_ptr<RpcServer>> started = RpcServer::Start(
      rpc, {s.engine.get(), s.admission.get(), s.metrics.get(), config.log_prompts},
      std::move(server_info));
  if (!started.ok()) return started.status();
  s.rpc = *std::move(started);
  s.metrics->SetStartupSeconds("services", absl::Now() - services_start);
  s.rpc->SetReady(true);
  return absl::OkStatus();
}

// One line on stderr; returns `code`.
int Fail(const absl::Status& status, int code) {
  std::fprintf(stderr, "tauserve: %s\n", std::string(status.message()).c_str());
  return code;
}

constexpr int kCannotStart = 1;
constexpr int kBadFlags = 2;
constexpr int kDeviceFailed = 3;
constexpr int kEngineStuck = 4;

// Returns how many requests it aborted. Nothing ends in an engine that is stuck: then the process does, when its time is
// over.
int32_t Drain(RpcServer& rpc, absl::Duration timeout) {
  const absl::Time end = absl::Now() + timeout;
  std::future<int32_t> aborted =
      std::async(std::launch::async, [&rpc, timeout] { return rpc.Drain(timeout); });
  while (aborted.wait_for(std::chrono::milliseconds(100)) != std::future_status::ready) {
    if (absl::Now() < end || !rpc.stuck()) continue;
    LogError("stop", {{"message", "the engine is stuck: what runs is not waited for"}});
    std::_Exit(kEngineStuck);
  }
  return aborted.get();
}

// From the signal, or the device's failure, to the exit code.
int Stop(const ServerConfig& config, StopSignal& stop, int signal, Server& server) {
  server.rpc->SetReady(false);
  if (stop.failure().ok()) {
    LogInfo("withdrawal", {{"signal", signal},
                           {"window_seconds", absl::ToDoubleSeconds(config.withdrawal_window)}});
    stop.WaitForFailure(config.withdrawal_window);
  }
  if (const absl::Status failure = stop.failure(); !failure.ok()) {
    server.rpc->SetFailed();
    LogError("device_failure", {{"message", std::string(failure.message())}});
  }
  LogInfo("drain", {{"timeout_seconds", absl::ToDoubleSeconds(config.drain_timeout)}});
  const int32_t aborted = Drain(*server.rpc, config.drain_timeout);
  // Both may wait up to two seconds for idle connections.
  std::thread metrics([&server] { server.metrics_server.reset(); });
  server.rpc->Shutdown(absl::Seconds(2));
  metrics.join();
  server.engine->Shutdown();
  LogInfo("stop", {{"aborted_requests", aborted}});
  return stop.failure().ok() ? 0 : kDeviceFailed;
}

int Main(int argc, char** argv) {
  const absl::Time start = absl::Now();
  if (AsksFor("help", argc, argv)) return std::fputs(HelpText().c_str(), stdout) < 0;
  if (AsksFor("version", argc, argv))
    return std::printf("tauserve %s (%s)\n", kVersion, kCommit) < 0;
  absl::StatusOr<ServerConfig> config = ReadConfig(argc, argv);
  if (!config.ok()) return Fail(config.status(), kBadFlags);
  if (absl::Status s = InitializeLogs(config->log_level); !s.ok()) return Fail(s, kBadFlags);
  std::signal(SIGPIPE, SIG_IGN);
  StopSignal stop;

  Server server;
  absl::Status status = LoadSecurity(*config, server.security);
  if (status.ok()) status = Load(*config, server);
  if (status.ok()) status = Serve(*config, start, stop, server);
  if (!status.ok()) return Fail(status, kCannotStart);
  const ModelInfo& info = server.model->info();
  const ChatTemplate& chat = server.admission->chat_template();
  LogChatTemplate(chat);
  LogInfo("start", {{"version", kVersion},
                    {"model", info.name},
                    {"chat_template", chat.name()},
                    {"parameters", info.parameters},
                    {"device", server.backend->device().name},
                    {"kv_pages", server.model->num_pages()},
                    {"tls", server.security.tls != nullptr},
                    {"tokens", server.security.tokens != nullptr},
                    {"seconds", absl::ToDoubleSeconds(absl::Now() - start)}});
  nlohmann::ordered_json serving;
  serving["event"] = "serving";
  serving["grpc"] = server.rpc->address();
  serving["control"] = server.rpc->control_address();
  serving["metrics"] = server.metrics_server->address();
  std::printf("%s\n", serving.dump().c_str());
  std::fflush(stdout);

  return Stop(*config, stop, stop.Wait(), server);
}

}  // namespace
}  // namespace tauserve

int main(int argc, char** argv) { return tauserve::Main(argc, argv); }
