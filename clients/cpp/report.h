// What a generation cost, for people and as JSON.
#ifndef TAUSERVE_CLIENTS_CPP_REPORT_H_
#define TAUSERVE_CLIENTS_CPP_REPORT_H_

#include <string>

#include "nlohmann/json.hpp"
#include "tauserve/inference/v1/inference.pb.h"

namespace tauserve::client {

namespace v1 = tauserve::inference::v1;

// All that a finished generation is known to have done.
struct Outcome {
  std::string request_id;
  std::string text;
  std::vector<uint32_t> token_ids;
  std::vector<v1::TokenLogprob> logprobs;
  v1::CandidateFinished finished;
  v1::Usage usage;
  v1::Timings timings;
  v1::AttentionStats attention;
};

// "eos_token" for FINISH_REASON_EOS_TOKEN.
std::string NameOfReason(v1::FinishReason reason);

// Several lines: tokens, times and rates, sparsity.
std::string Summary(const Outcome& outcome);
nlohmann::ordered_json ToJson(const Outcome& outcome);

}  // namespace tauserve::client

#endif  // TAUSERVE_CLIENTS_CPP_REPORT_H_
