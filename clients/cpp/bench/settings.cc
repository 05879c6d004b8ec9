#include "clients/cpp/bench/settings.h"

#include <unistd.h>

#include <cmath>
#include <random>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "clients/cpp/connection_flags.h"
#include "clients/cpp/generation_flags.h"

ABSL_FLAG(absl::optional<double>, rate, absl::nullopt,
          "open loop: requests a second; without it or --ramp, a closed loop");
ABSL_FLAG(std::string, ramp, "", "open loop: rate from:to over the run, or from:to:steps");
ABSL_FLAG(
    double, burstiness, 1,
    "open loop: shape of the gamma distributed gaps; 1 is Poisson, less is burstier, inf is even");
ABSL_FLAG(absl::optional<uint32_t>, max_concurrency, absl::nullopt,
          "most requests in flight; the users of a closed loop: default 8; open loop: no limit");
ABSL_FLAG(absl::optional<uint64_t>, num_requests, absl::nullopt,
          "end after so many; default 100 if there is no --duration");
ABSL_FLAG(absl::Duration, duration, absl::InfiniteDuration(),
          "send no more after this time, such as 60s; what is in flight is waited for");
ABSL_FLAG(uint32_t, warmup_requests, 0, "first send so many that count for nothing");
ABSL_FLAG(uint32_t, retries, 0,
          "send a request that got RESOURCE_EXHAUSTED so often again, when the server says");
ABSL_FLAG(uint32_t, give_up_after, 20,
          "end when so many in a row found no server (UNAVAILABLE); 0: never");
ABSL_FLAG(uint32_t, connections, 1, "spread the requests over so many connections");

ABSL_FLAG(std::string, prompt_tokens, "256",
          "length of prompts: N, uniform:LEAST:MOST, normal:MEAN:STDDEV, lognormal:MEAN:STDDEV");
ABSL_FLAG(std::string, output_tokens, "64", "length of outputs, in the same ways");
ABSL_FLAG(uint32_t, prefix_tokens, 0,
          "so many tokens more, which prompts share, at their beginning");
ABSL_FLAG(uint32_t, num_prefixes, 1, "so many different ones of these");
ABSL_FLAG(std::string, prompts, "",
          "take prompts, in turn, from a JSON-lines file: prompt, and if you like max_new_tokens");
ABSL_FLAG(std::string, text, "",
          "cut prompts out of this text, by its tokens, instead of random ones");

ABSL_FLAG(std::vector<std::string>, goodput, {},
          "limits of what counts as well served, such as ttft:500ms,itl:50ms,tpot:30ms,e2e:5s");
ABSL_FLAG(std::vector<std::string>, percentiles, (std::vector<std::string>{"50", "90", "95", "99"}),
          "which percentiles to show");
ABSL_FLAG(std::string, json, "", "write settings, summary and distributions into this file");
ABSL_FLAG(bool, records, false, "and every request, with the time before each token");
ABSL_FLAG(std::string, metrics, "",
          "HOST:PORT of the server's metrics: shows what its counters say of the run");
ABSL_FLAG(bool, progress, isatty(STDERR_FILENO) != 0, "a progress bar; default on a terminal");

namespace tauserve::bench {
namespace {

constexpr uint32_t kUsers = 8;
constexpr uint64_t kRequests = 100;

template <typename... Args>
absl::Status Invalid(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat(args...));
}

// The same status of what --`flag` says.
absl::Status Of(const char* flag, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat("--", flag, ": ", status.message()));
}

absl::Status ReadLoad(Settings& s) {
  const absl::optional<double> rate = absl::GetFlag(FLAGS_rate);
  const std::string ramp = absl::GetFlag(FLAGS_ramp);
  if (rate && !ramp.empty()) return Invalid("--rate or --ramp, not both");
  if (rate) {
    if (!(*rate > 0) || !std::isfinite(*rate)) {
      return Invalid("--rate is ", *rate, ", must be finite and over 0");
    }
    s.rate = RateCurve{*rate, *rate, 0, 0};
  }
  if (!ramp.empty()) {
    absl::StatusOr<RateCurve> curve = RateCurve::ParseRamp(ramp);
    if (!curve.ok()) return Of("ramp", curve.status());
    s.rate = *curve;
  }
  s.burstiness = absl::GetFlag(FLAGS_burstiness);
  if (!(s.burstiness > 0)) return Invalid("--burstiness is ", s.burstiness, ", must be over 0");
  if (s.burstiness != 1 && !s.rate) return Invalid("--burstiness needs --rate or --ramp");
  const auto concurrency = absl::GetFlag(FLAGS_max_concurrency);
  if (concurrency && *concurrency == 0)
    return Invalid("--max_concurrency is 0, must be at least 1");
  s.max_concurrency = concurrency.value_or(s.rate ? 0 : kUsers);

  const absl::Duration duration = absl::GetFlag(FLAGS_duration);
  if (duration <= absl::ZeroDuration()) {
    return Invalid("--duration is ", absl::FormatDuration(duration), ", must be over 0");
  }
  s.duration = absl::ToDoubleSeconds(duration);
  if (const auto count = absl::GetFlag(FLAGS_num_requests)) {
    if (*count == 0) return Invalid("--num_requests is 0, must be at least 1");
    s.num_requests = *count;
  } else if (std::isinf(s.duration)) {
    s.num_requests = kRequests;
  }
  // A ramp fills the duration, or else the time that its requests take.
  if (s.rate) {
    s.rate->ramp_seconds = std::isinf(s.duration) ? s.num_requests / s.rate->mean() : s.duration;
  }
  s.warmup_requests = absl::GetFlag(FLAGS_warmup_requests);
  s.retries = absl::GetFlag(FLAGS_retries);
  s.give_up_after = absl::GetFlag(FLAGS_give_up_after);
  s.connections = absl::GetFlag(FLAGS_connections);
  if (s.connections < 1 || s.connections > 1000) {
    return Invalid("--connections is ", s.connections, ", must be in [1, 1000]");
  }
  return absl::OkStatus();
}

absl::Status ReadRequests(const client::CommandLine& line, Settings& s) {
  const struct {
    const char* flag;
    std::string text;
    LengthDistribution& lengths;
  } lengths[] = {{"prompt_tokens", absl::GetFlag(FLAGS_prompt_tokens), s.prompt_tokens},
                 {"output_tokens", absl::GetFlag(FLAGS_output_tokens), s.output_tokens}};
  for (const auto& l : lengths) {
    absl::StatusOr<LengthDistribution> d = LengthDistribution::Parse(l.text);
    if (!d.ok()) return Of(l.flag, d.status());
    l.lengths = *std::move(d);
  }
  s.prefix_tokens = absl::GetFlag(FLAGS_prefix_tokens);
  s.num_prefixes = absl::GetFlag(FLAGS_num_prefixes);
  if (s.num_prefixes == 0) return Invalid("--num_prefixes is 0, must be at least 1");
  s.prompts_file = absl::GetFlag(FLAGS_prompts);
  s.text_file = absl::GetFlag(FLAGS_text);
  if (!s.prompts_file.empty() && !s.text_file.empty())
    return Invalid("--prompts or --text, not both");
  if (!s.prompts_file.empty() && s.prefix_tokens > 0) {
    return Invalid("--prefix_tokens is for prompts that are made, not for --prompts");
  }
  // Another one each time: the same prompts again would be in the server's prefix cache.
  s.seed = absl::GetFlag(FLAGS_seed).value_or(std::random_device()());
  return client::SetGenerationParameters(line.stop, line.bad_words, s.parameters);
}

absl::Status ReadReport(Settings& s) {
  absl::StatusOr<GoodputLimits> limits = GoodputLimits::Parse(absl::GetFlag(FLAGS_goodput));
  if (!limits.ok()) return Of("goodput", limits.status());
  s.goodput = *limits;
  for (const std::string& word : absl::GetFlag(FLAGS_percentiles)) {
    double percent = 0;
    if (!absl::SimpleAtod(word, &percent) || !(percent >= 0 && percent <= 100)) {
      return Invalid("--percentiles: '", word, "' is not in [0, 100]");
    }
    s.percentiles.push_back(percent);
  }
  if (s.percentiles.empty()) return Invalid("--percentiles: at least one, such as 50");
  s.json_file = absl::GetFlag(FLAGS_json);
  s.records = absl::GetFlag(FLAGS_records);
  if (s.records && s.json_file.empty()) return Invalid("--records needs --json=FILE");
  s.metrics = absl::GetFlag(FLAGS_metrics);
  s.progress = absl::GetFlag(FLAGS_progress);
  return absl::OkStatus();
}

}  // namespace

const client::Program& BenchProgram() {
  static const auto* const program = new client::Program{
      "tauserve-bench",
      "",
      {{"", "",
        "puts load on a Tauserve server and reports latencies and throughput. Outputs have "
        "the length that was asked for; with --no-ignore_eos the model may end them earlier. "
        "Without --seed each run has prompts of its own, which no prefix cache knows.",
        client::WithSamplingFlags(
            {"rate",
             "ramp",
             "burstiness",
             "max_concurrency",
             "num_requests",
             "duration",
             "warmup_requests",
             "retries",
             "give_up_after",
             "prompt_tokens",
             "output_tokens",
             "prefix_tokens",
             "num_prefixes",
             "prompts",
             "text",
             "seed",
             "goodput",
             "percentiles",
             "json",
             "records",
             "metrics",
             "progress",
             "model",
             "ignore_eos"},
            {"regex", "json_schema", "json_object", "bypass_prefix_cache", "salt", "priority"})}},
      client::WithConnectionFlags({"connections"}),
      "0 measured, with nothing worse than RESOURCE_EXHAUSTED and DEADLINE_EXCEEDED; 1 other "
      "failures, or\nno request ended well; 2 wrong usage; 3 no connection, or the server takes no "
      "requests; 130 interrupted."};
  return *program;
}

absl::StatusOr<Settings> ReadSettings(const client::CommandLine& line) {
  if (!line.arguments.empty()) {
    return Invalid("takes no arguments, but got '", line.arguments[0], "'");
  }
  Settings settings;
  if (absl::Status s = ReadLoad(settings); !s.ok()) return s;
  if (absl::Status s = ReadRequests(line, settings); !s.ok()) return s;
  if (absl::Status s = ReadReport(settings); !s.ok()) return s;
  return settings;
}

}  // namespace tauserve::bench
