#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "clients/cpp/commands.h"
#include "clients/cpp/metrics/metrics_endpoint.h"
#include "clients/cpp/top/monitor.h"
#include "clients/cpp/top/scraper.h"
#include "clients/cpp/top/terminal.h"
#include "clients/cpp/top/view.h"

namespace tauserve::client {
namespace {

constexpr int kScreenIntervals = 5;   // a second alone says little of percentiles
constexpr int kTickMs = 1000;         // ages grow without an event
constexpr char kEndOfInput = '\x04';  // Ctrl-D, where keys come one by one

// Signals as events of a descriptor; blocked in this thread and those that are made later.
class Signals {
 public:
  explicit Signals(std::initializer_list<int> signals) {
    sigset_t set;
    sigemptyset(&set);
    for (int signal : signals) sigaddset(&set, signal);
    pthread_sigmask(SIG_BLOCK, &set, &before_);
    descriptor_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  }
  ~Signals() {
    close(descriptor_);
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  int descriptor() const { return descriptor_; }
  // The next one that has come, or 0.
  int Take() {
    signalfd_siginfo info;
    return read(descriptor_, &info, sizeof(info)) == sizeof(info) ? static_cast<int>(info.ssi_signo)
                                                                  : 0;
  }

 private:
  sigset_t before_;
  int descriptor_;
};

bool Ends(int signal) { return signal == SIGINT || signal == SIGTERM || signal == SIGHUP; }

int FailWith(const absl::Status& status, const Console& console) {
  return console.Fail(
      grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message())));
}

// Whether one of the keys that were pressed quits.
bool TakeKeys(bool& open) {
  std::array<char, 64> keys;
  const ssize_t count = read(STDIN_FILENO, keys.data(), keys.size());
  if (count <= 0) {
    open = count < 0 && errno == EINTR;
    return false;
  }
  return std::any_of(keys.begin(), keys.begin() + count,
                     [](char key) { return key == 'q' || key == 'Q' || key == kEndOfInput; });
}

// Draws until it is told to end; the exit code.
int Watch(top::Monitor& monitor, top::Scraper& scraper, Signals& signals) {
  const top::Look look = top::LookOfProcess(/*screen=*/true);
  top::Terminal terminal(STDIN_FILENO, STDOUT_FILENO);
  bool keyboard = isatty(STDIN_FILENO) != 0;
  while (true) {
    const top::State state = monitor.StateAt(absl::Now());
    if (!terminal.Draw(top::ScreenLines(state, terminal.columns(), terminal.rows(), look))) {
      return 128 + SIGHUP;
    }
    std::array<pollfd, 3> events = {{{signals.descriptor(), POLLIN, 0},
                                     {scraper.descriptor(), POLLIN, 0},
                                     {keyboard ? STDIN_FILENO : -1, POLLIN, 0}}};
    poll(events.data(), events.size(), kTickMs);
    while (const int signal = signals.Take()) {
      if (Ends(signal)) return 128 + signal;
      if (signal != SIGTSTP) continue;
      terminal.Leave();
      raise(SIGSTOP);
      terminal.Enter();
    }
    if (events[2].revents != 0 && TakeKeys(keyboard)) return kOk;
    for (top::Scrape& scrape : scraper.Take()) monitor.Add(std::move(scrape));
  }
}

bool Print(const top::State& state, const Console& console) {
  if (console.json) {
    console.PrintJson(top::JsonOf(state), -1);
  } else {
    const std::string text =
        absl::StrJoin(top::PlainLines(state, top::LookOfProcess(/*screen=*/false)), "\n");
    std::fprintf(console.out, "%s\n\n", text.c_str());
  }
  return std::fflush(console.out) == 0;
}

// Prints each interval, or only the first.
int Follow(top::Monitor& monitor, top::Scraper& scraper, Signals& signals, bool once,
           const Console& console) {
  while (true) {
    std::array<pollfd, 2> events = {
        {{signals.descriptor(), POLLIN, 0}, {scraper.descriptor(), POLLIN, 0}}};
    poll(events.data(), events.size(), -1);
    if (const int signal = signals.Take()) return 128 + signal;
    for (top::Scrape& scrape : scraper.Take()) {
      if (once && !scrape.samples.ok()) return FailWith(scrape.samples.status(), console);
      monitor.Add(std::move(scrape));
      if (!Print(monitor.StateAt(absl::Now()), console)) return kRefused;
      if (once) return kOk;
    }
  }
}

}  // namespace

int RunTop(const TopOptions& options, const Console& console) {
  const absl::Duration patience = std::clamp(options.interval, absl::Seconds(2), absl::Seconds(10));
  absl::StatusOr<MetricsEndpoint> endpoint = MetricsEndpoint::Create(options.address, patience);
  if (!endpoint.ok()) {
    std::fprintf(console.err, "tauserve-cli: --metrics: %s\n",
                 std::string(endpoint.status().message()).c_str());
    return kUsage;
  }
  absl::StatusOr<Samples> first = endpoint->Scrape();
  if (!first.ok()) return FailWith(first.status(), console);
  const bool screen = !options.once && !console.json && top::Terminal::IsScreen(STDOUT_FILENO);
  top::Monitor monitor(options.address, options.interval, screen ? kScreenIntervals : 1,
                       {absl::Now(), *std::move(first)});
  // Before there is another thread, which would take them.
  Signals signals =
      screen ? Signals({SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGTSTP}) : Signals({SIGINT, SIGTERM});
  top::Scraper scraper(*std::move(endpoint), options.interval);
  return screen ? Watch(monitor, scraper, signals)
                : Follow(monitor, scraper, signals, options.once, console);
}

}  // namespace tauserve::client
