// What is known of one request of a run.
#ifndef TAUSERVE_CLIENTS_CPP_BENCH_RECORD_H_
#define TAUSERVE_CLIENTS_CPP_BENCH_RECORD_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tauserve/inference/v1/inference.pb.h"

namespace tauserve::bench {

namespace v1 = tauserve::inference::v1;

// Times are seconds from the start of the run. Latencies count from `intended`, so that a request
// which had to wait in this program is not better off than one that waited in the server.
struct RequestRecord {
  uint64_t index = 0;
  double intended = 0;
  double ready = 0;  // when nothing but this program kept it from being sent
  double sent = 0;
  double end = 0;
  uint32_t attempts = 0;

  std::string request_id;
  uint32_t prompt_tokens = 0;
  uint32_t asked_tokens = 0;   // of output
  uint32_t output_tokens = 0;  // that came
  uint32_t deltas = 0;         // messages that they came in
  double first_token = 0;
  double last_token = 0;
  // Before each token but the first. Tokens of one message share the time before it evenly.
  std::vector<float> gaps;

  std::string status = "OK";  // name of the call's status code
  std::string message;
  bool interrupted = false;  // by the user: no failure
  v1::FinishReason finish_reason = v1::FINISH_REASON_UNSPECIFIED;
  std::optional<v1::StreamCompleted> completed;  // what the server says of it

  void OnTokens(double now, uint32_t count);
  // Of another attempt nothing that came before counts, but when it was due.
  void ForgetAttempt();

  bool ok() const { return status == "OK"; }
  double SendLag() const { return sent - intended; }
  double LoopLag() const { return sent - ready; }
  double TimeToFirstToken() const { return first_token - intended; }
  double EndToEnd() const { return end - intended; }
  // Mean time of a token after the first; unset if there was none.
  std::optional<double> TimePerOutputToken() const;
  std::optional<double> LargestGap() const;
};

}  // namespace tauserve::bench

#endif  // TAUSERVE_CLIENTS_CPP_BENCH_RECORD_H_
