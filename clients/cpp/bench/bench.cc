#include "clients/cpp/bench/bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "clients/cpp/bench/bench_report.h"
#include "clients/cpp/bench/workload.h"
#include "clients/cpp/failure.h"
#include "clients/cpp/metrics/metrics_endpoint.h"
#include "clients/cpp/text_file.h"

namespace tauserve::bench {
namespace {

constexpr std::chrono::seconds kConnectPatience(10);
constexpr absl::Duration kMetricsPatience = absl::Seconds(10);
constexpr int kColumnsOfAFile = 100;
// Far from those that are measured, so that none of them finds its prompt in the prefix cache.
constexpr uint64_t kFirstWarmup = uint64_t{1} << 40;

class Bench {
 public:
  Bench(const Settings& settings, client::Client& client, Runner& runner,
        const client::Console& console)
      : settings_(settings), client_(client), runner_(runner), console_(console) {}

  int Run(Measured& m) {
    if (const int code = Prepare(m); code != client::kOk) return code;
    client::Samples before;
    if (endpoint_) {
      absl::StatusOr<client::Samples> now = endpoint_->Scrape();
      if (!now.ok()) return FailOfMetrics(now.status());
      before = *std::move(now);
    }
    m.started_at = absl::FormatTime(absl::RFC3339_sec, absl::Now(), absl::UTCTimeZone());
    m.run = runner_.Run(MeasuredPacer(), *workload_, 0, Show());
    EndBar();
    m.interrupted = runner_.interrupted();
    if (endpoint_) {
      const absl::StatusOr<client::Samples> after = endpoint_->Scrape();
      if (after.ok()) {
        m.counted = CountedBetween(before, *after);
      } else {
        // A server that is gone has no counters; the run's own numbers are still worth reporting.
        FailOfMetrics(after.status());
      }
    }
    m.cores = UsableCores();
    m.summary = Summarize(m.run.records, m.run.seconds, settings_.goodput);
    if (settings_.rate && settings_.rate->is_ramp()) {
      m.windows = RampWindows(m.run.records, *settings_.rate, settings_.goodput);
    }
    return Report(m);
  }

 private:
  // What requests are made of; connects, and warms up.
  int Prepare(Measured& m) {
    if (!settings_.metrics.empty()) {
      absl::StatusOr<client::MetricsEndpoint> endpoint =
          client::MetricsEndpoint::Create(settings_.metrics, kMetricsPatience);
      if (!endpoint.ok())
        return console_.Usage(absl::StrCat("--metrics: ", endpoint.status().message()));
      endpoint_.emplace(*std::move(endpoint));
    }
    if (!settings_.json_file.empty()) {
      // Before the run, not after it. What an earlier run wrote stays until then.
      std::FILE* file = std::fopen(settings_.json_file.c_str(), "a");
      if (file == nullptr) {
        return console_.Usage(absl::StrCat("--json: ", settings_.json_file, " cannot be written"));
      }
      std::fclose(file);
    }
    if (grpc::Status s = client_.GetModel(m.model); !s.ok()) return console_.Fail(s);
    Workload::Source source;
    source.vocab_size = m.model.vocab_size();
    source.max_context_tokens = m.model.max_context_tokens();
    source.excluded_tokens.assign(m.model.eos_token_ids().begin(), m.model.eos_token_ids().end());
    if (!settings_.prompts_file.empty()) {
      absl::StatusOr<std::vector<client::Prompt>> prompts =
          client::ReadPrompts(settings_.prompts_file);
      if (!prompts.ok())
        return console_.Usage(absl::StrCat("--prompts: ", prompts.status().message()));
      source.prompts = *std::move(prompts);
    }
    if (!settings_.text_file.empty()) {
      if (const int code = ReadCorpus(source); code != client::kOk) return code;
    }
    absl::StatusOr<Workload> workload = Workload::Make(settings_, std::move(source));
    if (!workload.ok()) return console_.Usage(workload.status().message());
    workload_ = std::make_unique<Workload>(*std::move(workload));
    if (grpc::Status s = runner_.Connect(kConnectPatience); !s.ok()) return console_.Fail(s);
    return WarmUp();
  }

  int ReadCorpus(Workload::Source& source) {
    absl::StatusOr<std::string> text = client::ReadFile(settings_.text_file);
    if (!text.ok()) return console_.Usage(absl::StrCat("--text: ", text.status().message()));
    v1::TokenizeRequest request;
    request.set_model(settings_.parameters.model());
    request.set_text(*std::move(text));
    request.set_add_special_tokens(false);
    v1::TokenizeResponse response;
    if (grpc::Status s = client_.Tokenize(request, response); !s.ok()) return console_.Fail(s);
    source.corpus.assign(response.token_ids().begin(), response.token_ids().end());
    return client::kOk;
  }

  int WarmUp() {
    if (settings_.warmup_requests == 0) return client::kOk;
    Pacer::Options options;
    options.num_requests = settings_.warmup_requests;
    options.max_concurrency = std::clamp(settings_.max_concurrency, 1u, settings_.warmup_requests);
    const RunResult run = runner_.Run(Pacer(options), *workload_, kFirstWarmup, nullptr);
    const auto failed = std::find_if(run.records.begin(), run.records.end(),
                                     [](const RequestRecord& r) { return !r.ok(); });
    if (failed == run.records.end()) return client::kOk;
    std::fprintf(console_.err, "%s: a warm-up request failed with %s: %s\n", console_.program,
                 failed->status.c_str(), failed->message.c_str());
    return failed->status == client::StatusName(grpc::StatusCode::UNAVAILABLE)
               ? client::kUnreachable
               : client::kRefused;
  }

  // Says why there are no metrics; the exit code if that ends the program.
  int FailOfMetrics(const absl::Status& status) const {
    return console_.Fail(grpc::Status(static_cast<grpc::StatusCode>(status.code()),
                                      absl::StrCat("--metrics: ", status.message())));
  }

  Pacer MeasuredPacer() const {
    Pacer::Options options;
    if (settings_.rate) {
      options.arrivals.emplace(*settings_.rate, settings_.burstiness, settings_.seed);
    }
    options.max_concurrency = settings_.max_concurrency;
    options.num_requests = settings_.num_requests;
    options.duration = settings_.duration;
    return Pacer(std::move(options));
  }

  Runner::Show Show() {
    if (!settings_.progress) return nullptr;
    return [this](const RunProgress& progress) {
      const bool terminal = console_.err_columns > 0;
      const std::string line =
          RunProgressLine(settings_, progress, terminal ? console_.err_columns : kColumnsOfAFile);
      // On a terminal one line is written over and over; in a file each is a line of its own.
      std::fprintf(console_.err, terminal ? "\r\033[K%s" : "%s\n", line.c_str());
      std::fflush(console_.err);
    };
  }

  void EndBar() {
    if (settings_.progress && console_.err_columns > 0) std::fputc('\n', console_.err);
  }

  int Report(const Measured& m) {
    std::fputs(TextReport(settings_, m).c_str(), console_.out);
    std::fflush(console_.out);
    if (!settings_.json_file.empty()) {
      std::FILE* file = std::fopen(settings_.json_file.c_str(), "w");
      client::Console to_file = console_;
      to_file.out = file;
      if (file != nullptr) to_file.PrintJson(JsonReport(settings_, m), /*indent=*/1);
      if (file == nullptr || std::ferror(file) + std::fclose(file) != 0) {
        std::fprintf(console_.err, "%s: --json: %s cannot be written\n", console_.program,
                     settings_.json_file.c_str());
        return client::kRefused;
      }
    }
    return ExitCodeOf(m);
  }

  // Overload is what a load generator makes: to be refused, or too late, is a measurement.
  static int ExitCodeOf(const Measured& m) {
    int code = m.summary.ok > 0 || m.interrupted ? client::kOk : client::kRefused;
    for (const auto& [status, failures] : m.summary.failures) {
      if (status == client::StatusName(grpc::StatusCode::UNAVAILABLE)) return client::kUnreachable;
      if (status != client::StatusName(grpc::StatusCode::RESOURCE_EXHAUSTED) &&
          status != client::StatusName(grpc::StatusCode::DEADLINE_EXCEEDED)) {
        code = client::kRefused;
      }
    }
    return code;
  }

  const Settings& settings_;
  client::Client& client_;
  Runner& runner_;
  const client::Console& console_;
  std::unique_ptr<Workload> workload_;
  std::optional<client::MetricsEndpoint> endpoint_;  // if the counters are asked for
};

}  // namespace

int RunBench(const Settings& settings, const std::string& address, client::Client& client,
             Runner& runner, const client::Console& console) {
  Measured measured;
  measured.address = address;
  return Bench(settings, client, runner, console).Run(measured);
}

}  // namespace tauserve::bench
