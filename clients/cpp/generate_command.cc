#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "clients/cpp/commands.h"
#include "clients/cpp/progress_bar.h"
#include "clients/cpp/report.h"

namespace tauserve::client {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Shows a stream's events and collects them.
class Display {
 public:
  Display(const GenerateOptions& options, const Console& console)
      : options_(options),
        console_(console),
        stream_(options.stream && options.prompted.input.sampling().num_candidates() <= 1) {}

  bool streams() const { return stream_; }

  void On(const v1::GenerateStreamResponse& event) {
    if (!event.request_id().empty()) outcome_.request_id = event.request_id();
    switch (event.event_case()) {
      case v1::GenerateStreamResponse::kStarted:
        OnStarted(event.started());
        break;
      case v1::GenerateStreamResponse::kPrefillProgress:
        OnProgress(event.prefill_progress());
        break;
      case v1::GenerateStreamResponse::kDelta:
        OnDelta(event.delta());
        break;
      case v1::GenerateStreamResponse::kCandidateFinished:
        outcome_.candidate(event.candidate_finished().index()).finished =
            event.candidate_finished();
        break;
      case v1::GenerateStreamResponse::kCompleted:
        OnCompleted(event.completed());
        break;
      case v1::GenerateStreamResponse::EVENT_NOT_SET:  // of a newer server
        break;
    }
  }

  // Leaves both cursors at the start of a line.
  const Outcome& End() {
    EndBar();
    if (shown_ && outcome_.candidates[0].text.back() != '\n') std::fputc('\n', console_.out);
    std::fflush(console_.out);
    outcome_.elapsed_seconds = SecondsSince(start_);
    return outcome_;
  }

 private:
  void OnStarted(const v1::PromptInfo& prompt) {
    outcome_.started = true;
    outcome_.prompt_tokens = prompt.prompt_tokens();
    outcome_.processed_prompt_tokens = prompt.cached_tokens();
    cached_ = prompt.cached_tokens();
    prefill_start_ = Clock::now();
    ShowBar();
  }

  void OnProgress(const v1::PrefillProgress& progress) {
    outcome_.processed_prompt_tokens = progress.processed_tokens();
    outcome_.prompt_logprobs.insert(outcome_.prompt_logprobs.end(), progress.logprobs().begin(),
                                    progress.logprobs().end());
    ShowBar();
  }

  void OnDelta(const v1::CandidateDelta& delta) {
    EndBar();
    outcome_.processed_prompt_tokens = outcome_.prompt_tokens;
    outcome_.completion_tokens += delta.num_tokens();
    CandidateOutcome& candidate = outcome_.candidate(delta.index());
    candidate.text += delta.text();
    candidate.token_ids.insert(candidate.token_ids.end(), delta.token_ids().begin(),
                               delta.token_ids().end());
    candidate.logprobs.insert(candidate.logprobs.end(), delta.logprobs().begin(),
                              delta.logprobs().end());
    if (!stream_ || console_.json || delta.text().empty()) return;
    std::fwrite(delta.text().data(), 1, delta.text().size(), console_.out);
    std::fflush(console_.out);
    shown_ = true;
  }

  void OnCompleted(const v1::StreamCompleted& completed) {
    outcome_.completed = true;
    outcome_.usage = completed.usage();
    outcome_.timings = completed.timings();
    outcome_.attention = completed.attention();
  }

  bool OnTerminal() const { return console_.err_columns > 0; }

  void ShowBar() {
    if (!options_.progress) return;
    const PrefillState state{outcome_.processed_prompt_tokens, outcome_.prompt_tokens, cached_,
                             SecondsSince(prefill_start_)};
    constexpr int kColumnsOfAFile = 100;
    const std::string line =
        ProgressLine(state, OnTerminal() ? console_.err_columns : kColumnsOfAFile);
    // On a terminal one line is written over and over; in a file each is a line of its own.
    std::fprintf(console_.err, OnTerminal() ? "\r\033[K%s" : "%s\n", line.c_str());
    std::fflush(console_.err);
    bar_ = true;
  }

  void EndBar() {
    if (bar_ && OnTerminal()) std::fputc('\n', console_.err);
    bar_ = false;
  }

  const GenerateOptions& options_;
  const Console& console_;
  const bool stream_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point prefill_start_;
  int64_t cached_ = 0;
  bool bar_ = false;    // the cursor is behind a bar
  bool shown_ = false;  // text has been printed
  Outcome outcome_;
};

void ShowJson(const Outcome& outcome, const grpc::Status& status, const Prompt* expected,
              bool matches, const Console& console) {
  nlohmann::ordered_json json = ToJson(outcome, status);
  if (expected != nullptr) {
    json["prompt_id"] = expected->id;
    json["expected_answer"] = expected->answer;
    json["matches"] = matches;
  }
  console.PrintJson(json, /*indent=*/-1);
}

void ShowTexts(const std::vector<CandidateOutcome>& candidates, const Console& console) {
  for (size_t i = 0; i < candidates.size(); i++) {
    if (candidates.size() > 1) std::fprintf(console.out, "--- candidate %zu ---\n", i);
    if (!candidates[i].text.empty()) std::fprintf(console.out, "%s\n", candidates[i].text.c_str());
  }
}

}  // namespace

int RunGenerate(Client& client, const GenerateOptions& options, const Console& console,
                std::string* answer) {
  v1::GenerateStreamRequest request;
  *request.mutable_input() = options.prompted.input;
  // Also what a summary of a generation that was cut off rests on, so asked for even if no bar is
  // shown.
  request.mutable_stream()->set_prefill_progress(true);
  Display display(options, console);
  const grpc::Status status =
      client.GenerateStream(request, [&](const v1::GenerateStreamResponse& e) { display.On(e); });
  const Outcome& outcome = display.End();
  const Prompt* expected = options.prompted.expected ? &*options.prompted.expected : nullptr;
  const std::string& text = outcome.candidates[0].text;
  const bool matches = status.ok() && expected != nullptr && AnswerMatches(*expected, text);

  if (console.json) {
    ShowJson(outcome, status, expected, matches, console);
  } else if (!display.streams()) {
    ShowTexts(outcome.candidates, console);
  }
  std::fflush(console.out);
  if (options.stats && outcome.started && !console.json) {
    std::fputs(Summary(outcome).c_str(), console.err);
  }
  if (!status.ok()) return console.Fail(status);
  if (answer != nullptr) *answer = text;
  if (expected == nullptr) return kOk;
  if (!console.json) {
    std::fprintf(console.err, "question     %s\nexpected     %s: %s\n", expected->question.c_str(),
                 expected->answer.c_str(), matches ? "given" : "NOT given");
  }
  return matches ? kOk : kRefused;
}

}  // namespace tauserve::client
