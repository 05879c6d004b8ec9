// From sampled tokens to what the client sees: text without split characters or parts of stop strings, and the reason
// why a generation ends. Follows the output's constraint, if it has one.
#ifndef TAUSERVE_SERVER_ENGINE_OUTPUT_PROCESSOR_H_
#define TAUSERVE_SERVER_ENGINE_OUTPUT_PROCESSOR_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/constraint/constraint.h"
#include "server/model/model.h"
#include "server/model/tokenizer/tokenizer.h"
#include "server/request/request.h"
#include "server/request/stop_matcher.h"

namespace tauserve {

class OutputProcessor {
 public:
  OutputProcessor(const Request& request, const ModelInfo& model, const Tokenizer* tokenizer);

  // Takes the next token (the `new_tokens`-th), adds to `delta` what may be shown, and returns why the generation ends,
  // if it does. A stop token adds text only with include_stop_in_output.
  std::optional<FinishReason> Append(int32_t token, int32_t new_tokens, int32_t total_tokens,
                                     std::optional<TokenLogprob> logprob, Delta& delta);
  // The text that was held back; call once, when the generation has ended.
  std::string Flush();

  // Whether FillMask says which tokens may be sampled.
  bool constrained() const { return matcher_.has_value(); }
  // One bit for each token of the model's vocabulary. Those that end the output may come where its constraint is met.
  // Errors as ConstraintMatcher's.
  absl::Status FillMask(absl::Span<uint64_t> mask);

  // Tokens that may not be sampled while fewer than min_new_tokens have come.
  const std::vector<int32_t>& stop_tokens() const { return stop_tokens_; }
  int32_t stop_token() const { return stop_token_; }
  const std::string& stop_string() const { return stops_.match(); }

 private:
  const Request& request_;
  const ModelInfo& model_;
  StreamingDecoder decoder_;
  StopMatcher stops_;
  std::vector<int32_t> stop_tokens_;
  int32_t stop_token_ = -1;
  std::optional<ConstraintMatcher> matcher_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_ENGINE_OUTPUT_PROCESSOR_H_
