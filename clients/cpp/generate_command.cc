#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string>

#include "clients/cpp/commands.h"
#include "clients/cpp/progress_bar.h"
#include "clients/cpp/report.h"

namespace tauserve::client {
namespace {

using Clock = std::chrono::steady_clock;

// Shows a stream's events and collects them.
class Display {
 public:
  explicit Display(const GenerateOptions& options) : options_(options), start_(Clock::now()) {}

  void On(const v1::GenerateStreamResponse& event) {
    if (!event.request_id().empty()) outcome_.request_id = event.request_id();
    switch (event.event_case()) {
      case v1::GenerateStreamResponse::kStarted:
        if (event.started().cached_tokens() > 0) cached_ = event.started().cached_tokens();
        Bar(cached_, event.started().prompt_tokens());
        break;
      case v1::GenerateStreamResponse::kPrefillProgress:
        Bar(event.prefill_progress().processed_tokens(), event.prefill_progress().total_tokens());
        break;
      case v1::GenerateStreamResponse::kDelta:
        OnDelta(event.delta());
        break;
      case v1::GenerateStreamResponse::kCandidateFinished:
        outcome_.finished = event.candidate_finished();
        break;
      case v1::GenerateStreamResponse::kCompleted:
        outcome_.usage = event.completed().usage();
        outcome_.timings = event.completed().timings();
        outcome_.attention = event.completed().attention();
        break;
      case v1::GenerateStreamResponse::EVENT_NOT_SET:
        break;
    }
  }

  // Leaves the cursor at the start of a line.
  void End() {
    EndBar();
    if (shown_ && outcome_.text.back() != '\n') std::printf("\n");
    std::fflush(stdout);
  }
  const Outcome& outcome() const { return outcome_; }

 private:
  void OnDelta(const v1::CandidateDelta& delta) {
    EndBar();
    outcome_.text += delta.text();
    outcome_.token_ids.insert(outcome_.token_ids.end(), delta.token_ids().begin(),
                              delta.token_ids().end());
    outcome_.logprobs.insert(outcome_.logprobs.end(), delta.logprobs().begin(),
                             delta.logprobs().end());
    if (!options_.stream || options_.json || delta.text().empty()) return;
    std::fwrite(delta.text().data(), 1, delta.text().size(), stdout);
    std::fflush(stdout);
    shown_ = true;
  }

  void Bar(int64_t processed, int64_t total) {
    if (!options_.progress) return;
    const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
    const std::string line = ProgressLine(processed, total, processed > cached_ ? seconds : 0);
    // On a terminal one line is written over and over; in a file each is a line of its own.
    std::fprintf(stderr, terminal_ ? "\r\033[K%s" : "%s\n", line.c_str());
    bar_ = true;
  }
  void EndBar() {
    if (bar_ && terminal_) std::fprintf(stderr, "\n");
    bar_ = false;
  }

  const GenerateOptions& options_;
  const Clock::time_point start_;
  const bool terminal_ = isatty(STDERR_FILENO) != 0;
  int64_t cached_ = 0;
  bool bar_ = false;    // the cursor is behind a bar
  bool shown_ = false;  // text has been printed
  Outcome outcome_;
};

}  // namespace

int RunGenerate(Client& client, const GenerateOptions& options) {
  v1::GenerateStreamRequest request;
  *request.mutable_input() = options.input;
  request.mutable_stream()->set_prefill_progress(options.progress);
  Display display(options);
  const grpc::Status status =
      client.GenerateStream(request, [&](const v1::GenerateStreamResponse& e) { display.On(e); });
  display.End();
  const Outcome& outcome = display.outcome();
  if (!status.ok()) return Fail(status);
  const bool matches = !options.expected || AnswerMatches(*options.expected, outcome.text);
  if (options.json) {
    nlohmann::ordered_json json = ToJson(outcome);
    if (options.expected) {
      json["expected_answer"] = options.expected->answer;
      json["matches"] = matches;
    }
    std::printf("%s\n",
                json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    return matches ? kOk : kRefused;
  }
  if (!options.stream) std::printf("%s\n", outcome.text.c_str());
  if (options.expected) {
    std::printf("question     %s\nexpected     %s: %s\n", options.expected->question.c_str(),
                options.expected->answer.c_str(), matches ? "given" : "NOT given");
  }
  std::fflush(stdout);
  if (options.stats) std::fprintf(stderr, "%s", Summary(outcome).c_str());
  return matches ? kOk : kRefused;
}

}  // namespace tauserve::client
