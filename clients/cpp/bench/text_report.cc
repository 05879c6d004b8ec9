#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "clients/cpp/attention_report.h"
#include "clients/cpp/bench/bench_report.h"
#include "clients/cpp/progress_bar.h"

namespace tauserve::bench {
namespace {

constexpr int kMessageColumns = 200;

// Four digits or so.
std::string Milliseconds(double seconds) {
  const double ms = seconds * 1e3;
  return absl::StrFormat(ms < 10 ? "%.2f" : ms < 1000 ? "%.1f" : "%.0f", ms);
}

// A line whose words go on below each other, behind the column of the names.
std::string Wrapped(const char* name, absl::string_view words) {
  constexpr size_t kColumns = 80;
  std::string text, line = absl::StrFormat("%-12s", name);
  for (const absl::string_view word : absl::StrSplit(words, ' ')) {
    if (line.size() + 1 + word.size() > kColumns) {
      absl::StrAppend(&text, line, "\n");
      line = std::string(12, ' ');
    }
    absl::StrAppend(&line, " ", word);
  }
  return absl::StrCat(text, line, "\n");
}

std::string Share(double part, double all) {
  return absl::StrFormat("%.1f%%", all > 0 ? 100 * part / all : 0);
}

void AppendRow(const char* name, const Distribution& d, const Settings& settings,
               std::string& text) {
  if (d.count() == 0) return;
  absl::StrAppendFormat(&text, "%-24s %8s", name, Milliseconds(d.mean()));
  for (const double percent : settings.percentiles) {
    absl::StrAppendFormat(&text, " %8s", Milliseconds(d.Percentile(percent)));
  }
  absl::StrAppendFormat(&text, " %8s\n", Milliseconds(d.max()));
}

void AppendLatencies(const Settings& settings, const Summary& s, std::string& text) {
  absl::StrAppendFormat(&text, "\n%-24s %8s", "milliseconds", "mean");
  for (const double percent : settings.percentiles) {
    absl::StrAppendFormat(&text, " %8s", absl::StrCat("p", percent));
  }
  absl::StrAppendFormat(&text, " %8s\n", "max");
  AppendRow("time to first token", s.ttft, settings, text);
  AppendRow("between tokens", s.itl, settings, text);
  AppendRow("a request's mean of them", s.tpot, settings, text);
  AppendRow("end to end", s.e2e, settings, text);
  AppendRow("server: in the queue", s.queue, settings, text);
  AppendRow("server: prefill", s.prefill, settings, text);
  AppendRow("sent after it was due", s.send_lag, settings, text);
  AppendRow("by this program's fault", s.loop_lag, settings, text);
  text += "\n";
}

void AppendRequests(const Settings& settings, const Measured& m, std::string& text) {
  const Summary& s = m.summary;
  absl::StrAppendFormat(&text, "measured     %d requests in %.2f s: %d ok", s.requests, s.seconds,
                        s.ok);
  uint64_t failed = 0;
  for (const auto& [status, failures] : s.failures) failed += failures.count;
  absl::StrAppendFormat(&text, ", %d failed", failed);
  if (s.interrupted > 0) absl::StrAppendFormat(&text, ", %d interrupted", s.interrupted);
  if (s.retries > 0) absl::StrAppendFormat(&text, ", %d sent again", s.retries);
  text += "\n";
  for (const auto& [status, failures] : s.failures) {
    absl::StrAppendFormat(&text, "  %-18s %d, such as: %s\n", status, failures.count,
                          absl::StrReplaceAll(failures.message, {{"\r", " "}, {"\n", " "}})
                              .substr(0, kMessageColumns));
  }
  if (m.run.lost) {
    absl::StrAppendFormat(&text, "gave up      %d requests in a row found no server\n",
                          settings.give_up_after);
  }
  if (m.interrupted) text += "interrupted  the run was ended early\n";
  if (s.ok == 0) return;
  absl::StrAppendFormat(&text, "finished by ");
  for (const auto& [reason, count] : s.finish_reasons) {
    absl::StrAppendFormat(&text, " %s %d", reason, count);
  }
  absl::StrAppendFormat(
      &text, "\nthroughput   %.2f requests/s, %.0f prompt and %.1f output tokens/s\n",
      s.PerSecond(s.ok), s.PerSecond(s.prompt_tokens), s.PerSecond(s.output_tokens));
  if (settings.goodput.any()) {
    absl::StrAppendFormat(&text, "goodput      %.2f requests/s: %s within all limits\n",
                          s.PerSecond(s.good), Share(s.good, s.requests - s.interrupted));
  }
  absl::StrAppendFormat(&text, "tokens       %d of prompts (%s cached), %d of output",
                        s.prompt_tokens, Share(s.cached_prompt_tokens, s.prompt_tokens),
                        s.output_tokens);
  // One each is usual: more means that the server, or this program, could not keep up.
  if (s.deltas < s.output_tokens) {
    absl::StrAppendFormat(&text, " in %d messages", s.deltas);
  }
  text += "\n";
}

// Of a part of a run, in which there may have been none.
std::string WindowPercentile(const Distribution& d, double percent) {
  return d.count() == 0 ? "-" : Milliseconds(d.Percentile(percent));
}

void AppendWindows(const Settings& settings, const Measured& m, std::string& text) {
  if (m.windows.empty()) return;
  const bool goodput = settings.goodput.any();
  absl::StrAppendFormat(&text, "\n%8s %8s %8s %6s %6s %9s %9s %9s%s\n", "from, s", "asked/s",
                        "due/s", "ok", "failed", "ttft p50", "ttft p99", "itl p99",
                        goodput ? "  good/s" : "");
  for (const Window& w : m.windows) {
    const Summary& s = w.summary;
    absl::StrAppendFormat(&text, "%8.2f %8.2f %8.2f %6d %6d %9s %9s %9s", w.begin, w.rate,
                          s.PerSecond(s.requests), s.ok, s.requests - s.ok - s.interrupted,
                          WindowPercentile(s.ttft, 50), WindowPercentile(s.ttft, 99),
                          WindowPercentile(s.itl, 99));
    if (goodput) absl::StrAppendFormat(&text, " %7.2f", s.PerSecond(s.good));
    text += "\n";
  }
}

void AppendCounters(const client::Samples& c, double seconds, std::string& text) {
  absl::StrAppendFormat(
      &text, "counted      %.0f requests, %.0f prompt and %.0f output tokens, %.0f refused\n",
      SumOf(c, "tauserve_requests_total"), SumOf(c, "tauserve_prompt_tokens_total"),
      SumOf(c, "tauserve_generation_tokens_total"),
      SumOf(c, "tauserve_admission_rejections_total"));
  // Over the run's time: the two scrapes are a little further apart.
  const auto engine = [&](const client::Labels& labels) {
    return SumOf(c, "tauserve_engine_seconds_total", labels);
  };
  absl::StrAppendFormat(&text, "engine       %.0f steps; busy %s of the time, in the model %s\n",
                        SumOf(c, "tauserve_engine_steps_total"),
                        Share(engine({}) - engine({{"phase", "wait"}}), seconds),
                        Share(engine({{"phase", "model"}}), seconds));
  if (const double cpu = SumOf(c, "process_cpu_seconds_total"); cpu > 0) {
    absl::StrAppendFormat(&text, "its process  %.2f s of CPU\n", cpu);
  }
}

}  // namespace

std::string TextReport(const Settings& settings, const Measured& m) {
  const Summary& s = m.summary;
  std::string text = absl::StrFormat("server       %s, %s, alpha %g", m.address, m.model.model(),
                                     m.model.entmax_alpha_min());
  if (m.model.entmax_alpha_max() != m.model.entmax_alpha_min()) {
    absl::StrAppendFormat(&text, " to %g", m.model.entmax_alpha_max());
  }
  absl::StrAppend(&text, "\n", Wrapped("load", DescribeLoad(settings)),
                  Wrapped("requests", DescribeRequests(settings)));
  AppendRequests(settings, m, text);
  if (s.ok > 0) AppendLatencies(settings, s, text);
  if (s.preemptions > 0) absl::StrAppendFormat(&text, "preempted    %d times\n", s.preemptions);
  if (s.attention.keys_considered() > 0) text += client::AttentionSummary(s.attention);
  if (m.counted) AppendCounters(*m.counted, s.seconds, text);
  absl::StrAppendFormat(&text, "this program %.2f s of CPU, %s of one core, %s of all %d",
                        m.run.cpu.process, Share(m.run.cpu.process, s.seconds),
                        Share(m.run.cpu.process, s.seconds * m.cores), m.cores);
  if (m.run.cpu.machine > 0) {
    absl::StrAppendFormat(&text, "\nthe machine  busy %s",
                          Share(m.run.cpu.machine_busy, m.run.cpu.machine));
  }
  text += "\n";
  AppendWindows(settings, m, text);
  return text;
}

std::string RunProgressLine(const Settings& settings, const RunProgress& p, int columns) {
  std::string numbers = absl::StrCat(p.done);
  double done = p.seconds, total = settings.duration;
  if (settings.num_requests != std::numeric_limits<uint64_t>::max()) {
    absl::StrAppend(&numbers, "/", settings.num_requests);
    // What ends first is how far it is.
    if (std::isinf(total) || p.done * total > p.seconds * settings.num_requests) {
      done = p.done;
      total = settings.num_requests;
    }
  }
  absl::StrAppend(&numbers, " done, ", p.in_flight, " in flight");
  if (p.failed > 0) absl::StrAppend(&numbers, ", ", p.failed, " failed");
  if (p.seconds > 0) {
    absl::StrAppendFormat(&numbers, ", %.0f tokens/s", p.output_tokens / p.seconds);
  }
  if (done > 0 && done < total) {
    absl::StrAppendFormat(&numbers, ", %.0f s left", p.seconds * (total / done - 1));
  }
  return client::BarLine("bench", done, total, numbers, columns);
}

}  // namespace tauserve::bench
