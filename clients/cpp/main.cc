// tauserve-cli: command line -> one call -> exit code.
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "clients/cpp/command_line.h"
#include "clients/cpp/commands.h"
#include "clients/cpp/credentials.h"
#include "clients/cpp/flags.h"
#include "clients/cpp/interrupts.h"

namespace tauserve::client {
namespace {

constexpr absl::Duration kMinInterval = absl::Milliseconds(100), kMaxInterval = absl::Hours(1);

struct Clients {
  Client* inference;
  Client* control;
  bool control_given;  // by flag or variable
};

// They live as long as the process: the thread that waits for signals may use them until its end.
Clients MakeClients(const Credentials& credentials) {
  const std::string control = ControlAddress();
  return {new Client(ServerAddress(), CallTimeout(), credentials),
          new Client(control.empty() ? "127.0.0.1:50052" : control, CallTimeout(), credentials),
          !control.empty()};
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
  if (!prompted.ok()) return console.Usage(prompted.status().message());
  return RunGenerate(client, OptionsOf(*std::move(prompted)), console);
}

int Chat(const CommandLine& line, Client& client, const Console& console) {
  const bool interactive =
      line.arguments.empty() && absl::GetFlag(FLAGS_file).empty() && isatty(STDIN_FILENO) != 0;
  absl::StatusOr<PromptedInput> prompted = ReadChatInput(line, !interactive);
  if (!prompted.ok()) return console.Usage(prompted.status().message());
  const GenerateOptions options = OptionsOf(*std::move(prompted));
  return interactive ? RunChat(client, options, std::cin, console)
                     : RunGenerate(client, options, console);
}

int Tokenize(const CommandLine& line, Client& client, const Console& console) {
  absl::StatusOr<std::string> text = ReadText(line.arguments);
  if (!text.ok()) return console.Usage(text.status().message());
  v1::TokenizeRequest request;
  request.set_model(absl::GetFlag(FLAGS_model));
  request.set_text(*std::move(text));
  request.set_add_special_tokens(absl::GetFlag(FLAGS_add_special_tokens));
  request.set_return_token_strings(true);
  return RunTokenize(client, request, console);
}

int Detokenize(const CommandLine& line, Client& client, const Console& console) {
  const absl::StatusOr<std::vector<uint32_t>> ids = ParseIds(line.arguments);
  if (!ids.ok()) return console.Usage(ids.status().message());
  v1::DetokenizeRequest request;
  request.set_model(absl::GetFlag(FLAGS_model));
  request.mutable_token_ids()->Assign(ids->begin(), ids->end());
  request.set_skip_special_tokens(absl::GetFlag(FLAGS_skip_special_tokens));
  return RunDetokenize(client, request, console);
}

int Abort(const CommandLine& line, Client& control, const Console& console) {
  // No id would mean all requests; that takes more than forgetting one.
  if (line.arguments.empty() != absl::GetFlag(FLAGS_all)) {
    return console.Usage("abort takes request ids, or --all");
  }
  return RunAbort(control, line.arguments, console);
}

int Token(const CommandLine& line, const Console& console) {
  if (!line.arguments.empty()) return console.Usage("token takes no arguments");
  return RunToken(absl::GetFlag(FLAGS_scopes), absl::GetFlag(FLAGS_out), console);
}

int Top(const CommandLine& line, const Console& console) {
  if (!line.arguments.empty()) return console.Usage("top takes no arguments");
  TopOptions options;
  options.address = FlagOrVariable(absl::GetFlag(FLAGS_metrics), "TAUSERVE_METRICS");
  if (options.address.empty()) options.address = "127.0.0.1:9464";
  options.interval = absl::GetFlag(FLAGS_interval);
  options.once = absl::GetFlag(FLAGS_once);
  if (options.interval < kMinInterval || options.interval > kMaxInterval) {
    return console.Usage(absl::StrCat("--interval is ", absl::FormatDuration(options.interval),
                                      ": take one from ", absl::FormatDuration(kMinInterval),
                                      " to ", absl::FormatDuration(kMaxInterval)));
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
  if (!line.arguments.empty())
    return console.Usage(absl::StrCat(line.command, " takes no arguments"));
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
      ParseCommandLine(CliProgram(), std::vector<std::string>(argv + 1, argv + argc));
  const Console console = Console::OfProcess("tauserve-cli", absl::GetFlag(FLAGS_json));
  if (!line.ok()) return console.Usage(line.status().message());
  if (line->help) return std::fputs(HelpText(CliProgram(), line->command).c_str(), stdout) < 0;
  if (line->version) return std::puts("tauserve-cli " TAUSERVE_VERSION) < 0;
  if (line->command == "token") return Token(*line, console);
  // Without destructors, which would race with its thread.
  if (line->command == "top") std::_Exit(Top(*line, console));
  const absl::StatusOr<Credentials> credentials = ReadCredentials();
  if (!credentials.ok()) return console.Usage(credentials.status().message());
  const sigset_t signals = BlockInterrupts();
  const Clients clients = MakeClients(*credentials);
  // A command whose call is ended says how far it got.
  const std::atomic<int>& signal = OnInterrupt(signals, [clients] {
    const bool inference = clients.inference->Cancel();
    return clients.control->Cancel() || inference;
  });
  const int code = Dispatch(*line, clients, console);
  std::fflush(nullptr);
  // Without destructors, which would race with the thread that waits for signals.
  std::_Exit(signal != 0 ? 128 + signal : code);
}

}  // namespace
}  // namespace tauserve::client

int main(int argc, char** argv) { return tauserve::client::Main(argc, argv); }
