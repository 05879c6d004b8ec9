// A generation request after validation: immutable parameters, and the sink that its results go to.
#ifndef TAUSERVE_SERVER_REQUEST_REQUEST_H_
#define TAUSERVE_SERVER_REQUEST_REQUEST_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kernels/attention.h"

namespace tauserve {

class Constraint;

// Meanings and ranges are those of SamplingParameters in proto/tauserve/inference/v1/inference.proto.
struct SamplingParams {
  float temperature = 1;
  int32_t top_k = 0;
  float top_p = 1;
  float min_p = 0;
  float typical_p = 1;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  uint64_t seed = 0;  // of the first candidate; the others' are the numbers behind it
  int32_t num_candidates = 1;
  absl::flat_hash_map<int32_t, float> logit_bias;
  std::vector<int32_t> allowed_token_ids;
  // Words, each in its tokenizations, and sequences of ids; none is empty.
  std::vector<std::vector<int32_t>> bad_words;
  std::shared_ptr<Constraint> constraint;  // null: none

  bool greedy() const { return temperature == 0; }
};

struct StoppingParams {
  int32_t max_new_tokens = 0;  // >= 1
  int32_t min_new_tokens = 0;
  std::vector<std::string> stop_strings;
  std::vector<int32_t> stop_token_ids;
  bool include_stop_in_output = false;
  bool ignore_eos = false;
  absl::Duration time_limit = absl::InfiniteDuration();  // from arrival

  // The tokens that end the output: stop_token_ids, and the model's own unless ignore_eos is set.
  std::vector<int32_t> EndTokens(const std::vector<int32_t>& eos_token_ids) const;
};

struct OutputParams {
  std::optional<int32_t> top_logprobs;         // unset: no log-probabilities
  std::optional<int32_t> top_prompt_logprobs;  // the same, of the prompt
  bool skip_special_tokens = true;
};

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;  // natural logarithm, of the model's distribution at temperature 1
  int32_t rank = 0;   // 1 = most probable; 0: the first prompt token, which has no log-probability
  std::vector<std::pair<int32_t, float>> top;
};

enum class FinishReason {
  kEosToken,
  kStopToken,
  kStopString,
  kMaxNewTokens,
  kContextLimit,
  kTimeLimit,
  kAborted,
  kConstraintComplete,
};
const char* NameOf(FinishReason reason);  // "eos_token", "stop_token", ...

struct Delta {
  int32_t candidate = 0;
  std::string text;
  std::vector<int32_t> tokens;
  std::vector<TokenLogprob> logprobs;  // empty, or one for each token
};

// How one of a request's candidates ended.
struct Finish {
  int32_t candidate = 0;
  FinishReason reason = FinishReason::kAborted;
  int32_t stop_token = -1;  // kEosToken, kStopToken
  std::string stop_string;  // kStopString
};

// How a request ended. `status` is OK if and only if it has a finish reason: that of the candidate which ended last.
struct Completion {
  absl::Status
      status;  // OK, CANCELLED, DEADLINE_EXCEEDED, UNAVAILABLE (shut down in the queue), INTERNAL,
               // INVALID_ARGUMENT (the constraint can't be followed further)
  std::optional<FinishReason> reason;

  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;
  int32_t new_tokens = 0;   // of all candidates
  int32_t preemptions = 0;  // the same
  absl::Duration queue;     // zero where that stage was not reached
  absl::Duration prefill;
  absl::Duration time_to_first_token;
  absl::Duration decode;
  absl::Duration total;
  AttentionStats prefill_attention;
  AttentionStats decode_attention;
};

// Where a request's results go. Called on the engine thread, so a call must return at once, without waiting for any
// client. Order: OnStarted, OnPrefillProgress*, of each candidate OnDelta* and OnFinished, OnEnd; OnEnd comes exactly
// once, whatever happened, and nothing after it.
class ResultSink {
 public:
  virtual ~ResultSink() = default;
  virtual void OnStarted(int32_t prompt_tokens, int32_t cached_tokens) = 0;
  // `logprobs`: of the prompt's next tokens, where asked for.
  virtual void OnPrefillProgress(int32_t processed_tokens, int32_t total_tokens,
                                 std::vector<TokenLogprob> logprobs) = 0;
  virtual void OnDelta(Delta delta) = 0;
  // Once for each candidate of a request that ends OK.
  virtual void OnFinished(Finish finish) = 0;
  virtual void OnEnd(const Completion& completion) = 0;
};

struct Request {
  std::string id;
  std::vector<int32_t> prompt;  // at least one token
  SamplingParams sampling;
  StoppingParams stopping;
  OutputParams output;
  bool bypass_prefix_cache = false;
  std::string cache_salt;
  int32_t priority = 0;  // lower is served earlier
  absl::Time arrival;
  absl::Time deadline = absl::InfiniteFuture();
  std::shared_ptr<ResultSink> sink;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_REQUEST_REQUEST_H_
