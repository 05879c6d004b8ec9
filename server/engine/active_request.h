// What the engine keeps of a request in flight, beside its sequence: output state, times and statistics.
#ifndef TAUSERVE_SERVER_ENGINE_ACTIVE_REQUEST_H_
#define TAUSERVE_SERVER_ENGINE_ACTIVE_REQUEST_H_

#include <memory>
#include <optional>
#include <utility>

#include "absl/time/time.h"
#include "server/engine/output_processor.h"
#include "server/request/sequence.h"

namespace tauserve {

struct ActiveRequest {
  ActiveRequest(std::shared_ptr<const Request> r, const ModelInfo& model,
                const Tokenizer* tokenizer)
      : request(std::move(r)), sequence(request), output(*request, model, tokenizer) {}

  std::shared_ptr<const Request> request;
  Sequence sequence;
  OutputProcessor output;
  std::optional<absl::Time> scheduled;  // for the first time
  std::optional<absl::Time> first_token;
  absl::Time last_token;
  AttentionStats prefill_attention;
  AttentionStats decode_attention;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_ENGINE_ACTIVE_REQUEST_H_
