// What a generation cost, for people and as JSON.
#ifndef TAUSERVE_CLIENTS_CPP_REPORT_H_
#define TAUSERVE_CLIENTS_CPP_REPORT_H_

#include <grpcpp/support/status.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "google/protobuf/duration.pb.h"
#include "nlohmann/json.hpp"
#include "tauserve/inference/v1/inference.pb.h"

namespace tauserve::client {

namespace v1 = tauserve::inference::v1;

// What is known of one candidate.
struct CandidateOutcome {
  std::string text;
  std::vector<uint32_t> token_ids;
  std::vector<v1::TokenLogprob> logprobs;
  v1::CandidateFinished finished;
};

// All that is known of a generation, collected from its stream.
struct Outcome {
  std::string request_id;
  std::vector<v1::TokenLogprob> prompt_logprobs;
  std::vector<CandidateOutcome> candidates{1};  // at least the first

  CandidateOutcome& candidate(size_t index) {
    if (candidates.size() <= index) candidates.resize(index + 1);
    return candidates[index];
  }

  // As it goes.
  bool started = false;
  uint32_t prompt_tokens = 0;
  uint32_t processed_prompt_tokens = 0;
  uint32_t completion_tokens = 0;
  double elapsed_seconds = 0;  // on this side, from the request on

  // From its last messages.
  bool completed = false;
  v1::Usage usage;
  v1::Timings timings;
  v1::AttentionStats attention;
};

// "eos_token" for FINISH_REASON_EOS_TOKEN.
std::string NameOfReason(v1::FinishReason reason);

double ToSeconds(const google::protobuf::Duration& duration);

// Several lines: tokens, times and rates, sparsity. Of a generation that was cut off, one line: how
// far it got.
std::string Summary(const Outcome& outcome);

// Text, usage, timings with rates, attention with shares; of a generation that was cut off, how far
// it got, and `status`. Several candidates are a list, the first's text and end are in both places.
nlohmann::ordered_json ToJson(const Outcome& outcome, const grpc::Status& status);

}  // namespace tauserve::client

#endif  // TAUSERVE_CLIENTS_CPP_REPORT_H_
