// What the engine keeps of a request in flight: its candidates' sequences and output states, times and statistics.
#ifndef TAUSERVE_SERVER_ENGINE_ACTIVE_REQUEST_H_
#define TAUSERVE_SERVER_ENGINE_ACTIVE_REQUEST_H_

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "server/engine/output_processor.h"
#include "server/request/sequence.h"

namespace tauserve {

struct ActiveRequest;

struct ActiveCandidate {
  ActiveCandidate(ActiveRequest* r, const std::shared_ptr<const Request>& shared, int32_t index,
                  const ModelInfo& model, const Tokenizer* tokenizer)
      : request(r), sequence(shared, index), output(*shared, model, tokenizer) {}

  ActiveRequest* const request;
  Sequence sequence;  // in the scheduler until the candidate is finished
  OutputProcessor output;
  bool finished = false;
  absl::Time last_token;
};

struct ActiveRequest {
  ActiveRequest(std::shared_ptr<const Request> r, const ModelInfo& model,
                const Tokenizer* tokenizer)
      : request(std::move(r)), unfinished(request->sampling.num_candidates) {
    for (int32_t i = 0; i < unfinished; i++) {
      candidates.push_back(std::make_unique<ActiveCandidate>(this, request, i, model, tokenizer));
    }
  }

  // The one that computes the prompt.
  const Sequence& first() const { return candidates[0]->sequence; }
  int32_t new_tokens() const {  // of all candidates
    int32_t tokens = 0;
    for (const auto& candidate : candidates) tokens += candidate->sequence.new_tokens();
    return tokens;
  }

  std::shared_ptr<const Request> request;
  std::vector<std::unique_ptr<ActiveCandidate>> candidates;
  int32_t unfinished;
  std::optional<absl::Time> scheduled;  // for the first time
  std::optional<absl::Time> first_token;
  absl::Time last_token;
  AttentionStats prefill_attention;
  AttentionStats decode_attention;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_ENGINE_ACTIVE_REQUEST_H_
