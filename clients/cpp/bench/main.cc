// tauserve-bench: command line -> load -> report.
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "clients/cpp/bench/bench.h"
#include "clients/cpp/connection_flags.h"
#include "clients/cpp/credentials.h"
#include "clients/cpp/generation_flags.h"
#include "clients/cpp/interrupts.h"

namespace tauserve::bench {
namespace {

int Main(int argc, char** argv) {
  const client::Console console = client::Console::OfProcess("tauserve-bench", /*json=*/false);
  // Outputs have the length that was asked for, unless --no-ignore_eos says otherwise.
  absl::SetFlag(&FLAGS_ignore_eos, true);
  const absl::StatusOr<client::CommandLine> line =
      client::ParseCommandLine(BenchProgram(), std::vector<std::string>(argv + 1, argv + argc));
  if (!line.ok()) return console.Usage(line.status().message());
  if (line->help) return std::fputs(HelpText(BenchProgram(), "").c_str(), stdout) < 0;
  if (line->version) return std::puts("tauserve-bench " TAUSERVE_VERSION) < 0;
  const absl::StatusOr<Settings> settings = ReadSettings(*line);
  if (!settings.ok()) return console.Usage(settings.status().message());
  const absl::StatusOr<client::Credentials> credentials = client::ReadCredentials();
  if (!credentials.ok()) return console.Usage(credentials.status().message());

  const sigset_t signals = client::BlockInterrupts();
  // They live as long as the process: the thread that waits for signals may use them until its end.
  auto* const client =
      new client::Client(client::ServerAddress(), client::CallTimeout(), *credentials);
  auto* const runner =
      new Runner({client::ServerAddress(), *credentials, client::CallTimeout(),
                  settings->connections, settings->retries, settings->give_up_after});
  // What was measured until then is reported.
  const std::atomic<int>& signal = client::OnInterrupt(signals, [client, runner] {
    const bool running = runner->Interrupt();
    return client->Cancel() || running;
  });
  const int code = RunBench(*settings, client::ServerAddress(), *client, *runner, console);
  std::fflush(nullptr);
  // Without destructors, which would race with the thread that waits for signals.
  std::_Exit(signal != 0 ? 128 + signal : code);
}

}  // namespace
}  // namespace tauserve::bench

int main(int argc, char** argv) { return tauserve::bench::Main(argc, argv); }
