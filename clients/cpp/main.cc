// tauserve-cli: command line -> one call -> exit code.
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "clients/cpp/command_line.h"
#include "clients/cpp/commands.h"
#include "clients/cpp/credentials.h"
#include "clients/cpp/flags.h"

namespace tauserve::client {
namespace {

constexpr absl::Duration kMinInterval = absl::Milliseconds(100), kMaxInterval = absl::Hours(1);

int Usage(absl::string_view message) {
  std::fprintf(stderr, "tauserve-cli: %s (--help shows the commands)\n",
               std::string(message).c_str());
  return kUsage;
}

// The flag, else the variable; empty if neither is set.
std::string AddressOf(const std::string& flag, const char* variable) {
  if (!flag.empty()) return flag;
  const char* set = std::getenv(variable);
  return set == nullptr ? "" : set;
}

struct Clients {
  Client* inference;
  Client* control;
  bool control_given;  // by flag or variable
};

// They live as long as the process: the thread that waits for signals may use them until its end.
Clients MakeClients(const Credentials& credentials) {
  std::optional<Client::Duration> timeout;
  if (absl::GetFlag(FLAGS_timeout) != absl::InfiniteDuration()) {
    timeout = absl::ToChronoMilliseconds(absl::GetFlag(FLAGS_timeout));
  }
  const std::string server = AddressOf(absl::GetFlag(FLAGS_server), "TAUSERVE_SERVER");
  const std::string control = AddressOf(absl::GetFlag(FLAGS_control), "TAUSERVE_CONTROL");
  return {new Client(server.empty() ? "127.0.0.1:50051" : server, timeout, credentials),
          new Client(control.empty() ? "127.0.0.1:50052" : control, timeout, credentials),
          !control.empty()};
}

// Blocked in all threads that are made later, gRPC's too; one thread waits for them.
sigset_t BlockInterrupts() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

// The first signal ends the call under way, whose command then says how far it got; without one, or
// the second time, it ends the process. Returns the signal, 0 as long as there was none.
const std::atomic<int>& CancelOnInterrupt(const sigset_t& signals, const Clients& clients) {
  static std::atomic<int> received = 0;
  std::thread([signals, clients] {
    int signal = 0;
    sigwait(&signals, &signal);
    received = signal;
    const bool inference = clients.inference->Cancel();
    const bool control = clients.control->Cancel();
    if (inference || control) sigwait(&signals, &signal);
    std::_Exit(128 + signal);
  }).detach();
  return received;
}

GenerateOptions OptionsOf(PromptedInput prompted) {
  GenerateOptions options;
  options.prompted = std::move(prompted);
  options.stream = absl::GetFlag(FLAGS_stream);
  options.progress = absl::GetFlag(FLAGS_progress);
  options.stats = absl::GetFlag(FLAGS_stats);
  return options;
}

int Generate(const CommandLine& line, Client& client, const Console& console) {
  absl::StatusOr<PromptedInput> prompted = ReadGenerationInput(line);
  if (!prompted.ok()) return Usage(prompted.status().message());
  return RunGenerate(client, OptionsOf(*std::move(prompted)), console);
}

int Chat(const CommandLine& line, Client& client, const Console& console) {
  const bool interactive =
      line.arguments.empty() && absl::GetFlag(FLAGS_file).empty() && isatty(STDIN_FILENO) != 0;
  absl::StatusOr<PromptedInput> prompted = ReadChatInput(line, !interactive);
  if (!prompted.ok()) return Usage(prompted.status().message());
  const GenerateOptions options = OptionsOf(*std::move(prompted));
  return interactive ? RunChat(client, options, std::cin, console)
                     : RunGenerate(client, options, console);
}

int Tokenize(const CommandLine& line, Client& client, const Console& console) {
  absl::StatusOr<std::string> text = ReadText(line.arguments);
  if (!text.ok()) return Usage(text.status().message());
  v1::TokenizeRequest request;
  request.set_model(absl::GetFlag(FLAGS_model));
  request.set_text(*std::move(text));
  request.set_add_special_tokens(absl::GetFlag(FLAGS_add_special_tokens));
  request.set_return_token_strings(true);
  return RunTokenize(client, request, console);
}

int Detokenize(const CommandLine& line, Client& client, const Console& console) {
  const absl::StatusOr<std::vector<uint32_t>> ids = ParseIds(line.arguments);
  if (!ids.ok()) return Usage(ids.status().message());
  v1::DetokenizeRequest request;
  request.set_model(absl::GetFlag(FLAGS_model));
  request.mutable_token_ids()->Assign(ids->begin(), ids->end());
  request.set_skip_special_tokens(absl::GetFlag(FLAGS_skip_special_tokens));
  return RunDetokenize(client, request, console);
}

int Abort(const CommandLine& line, Client& control, const Console& console) {
  // No id would mean all requests; that takes more than forgetting one.
  if (line.arguments.empty() != absl::GetFlag(FLAGS_all)) {
    return Usage("abort takes request ids, or --all");
  }
  return RunAbort(control, line.arguments, console);
}

int Token(const CommandLine& line, const Console& console) {
  if (!line.arguments.empty()) return Usage("token takes no arguments");
  return RunToken(absl::GetFlag(FLAGS_scopes), absl::GetFlag(FLAGS_out), console);
}

int Top(const CommandLine& line, const Console& console) {
  if (!line.arguments.empty()) return Usage("top takes no arguments");
  TopOptions options;
  options.address = AddressOf(absl::GetFlag(FLAGS_metrics), "TAUSERVE_METRICS");
  if (options.address.empty()) options.address = "127.0.0.1:9464";
  options.interval = absl::GetFlag(FLAGS_interval);
  options.once = absl::GetFlag(FLAGS_once);
  if (options.interval < kMinInterval || options.interval > kMaxInterval) {
    return Usage(absl::StrCat("--interval is ", absl::FormatDuration(options.interval),
                              ": take one from ", absl::FormatDuration(kMinInterval), " to ",
                              absl::FormatDuration(kMaxInterval)));
  }
  return RunTop(options, console);
}

int Dispatch(const CommandLine& line, const Clients& clients, const Console& console) {
  Client& client = *clients.inference;
  Client& control = *clients.control;
  if (line.command == "generate") return Generate(line, client, console);
  if (line.command == "chat") return Chat(line, client, console);
  if (line.command == "tokenize") return Tokenize(line, client, console);
  if (line.command == "detokenize") return Detokenize(line, client, console);
  if (line.command == "abort") return Abort(line, control, console);
  if (!line.arguments.empty()) return Usage(absl::StrCat(line.command, " takes no arguments"));
  if (line.command == "info") {
    return RunInfo(client, clients.control_given ? &control : nullptr, console);
  }
  if (line.command == "load") return RunLoad(control, console);
  if (line.command == "health") {
    return RunHealth(client, absl::GetFlag(FLAGS_service), absl::GetFlag(FLAGS_wait), console);
  }
  return RunDrain(control, absl::GetFlag(FLAGS_drain_timeout), console);
}

int Main(int argc, char** argv) {
  const absl::StatusOr<CommandLine> line =
      ParseCommandLine(std::vector<std::string>(argv + 1, argv + argc));
  if (!line.ok()) return Usage(line.status().message());
  if (line->help) return std::fputs(HelpText(line->command).c_str(), stdout) < 0;
  if (line->version) return std::puts("tauserve-cli " TAUSERVE_VERSION) < 0;
  const Console console = Console::OfProcess(absl::GetFlag(FLAGS_json));
  if (line->command == "token") return Token(*line, console);
  // Without destructors, which would race with its thread.
  if (line->command == "top") std::_Exit(Top(*line, console));
  const absl::StatusOr<Credentials> credentials = ReadCredentials();
  if (!credentials.ok()) return Usage(credentials.status().message());
  const sigset_t signals = BlockInterrupts();
  const Clients clients = MakeClients(*credentials);
  const std::atomic<int>& signal = CancelOnInterrupt(signals, clients);
  const int code = Dispatch(*line, clients, console);
  std::fflush(nullptr);
  // Without destructors, which would race with the thread that waits for signals.
  std::_Exit(signal != 0 ? 128 + signal : code);
}

}  // namespace
}  // namespace tauserve::client

int main(int argc, char** argv) { return tauserve::client::Main(argc, argv); }
