// What a client asked for, before validation: unset where it said nothing. Fields mean what their namesakes in
// proto/tauserve/inference/v1/inference.proto do.
#ifndef TAUSERVE_SERVER_ADMISSION_GENERATION_SPEC_H_
#define TAUSERVE_SERVER_ADMISSION_GENERATION_SPEC_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "server/constraint/constraint.h"
#include "server/model/chat/render.h"

namespace tauserve {

struct SamplingSpec {
  std::optional<float> temperature;
  std::optional<uint32_t> top_k;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<float> typical_p;
  std::optional<float> repetition_penalty;
  std::optional<float> presence_penalty;
  std::optional<float> frequency_penalty;
  std::optional<uint64_t> seed;
  std::optional<uint32_t> num_candidates;
  std::vector<std::pair<uint32_t, float>> logit_bias;
  std::vector<uint32_t> allowed_token_ids;
  std::vector<std::string> bad_words;
  std::vector<std::vector<uint32_t>> bad_words_ids;
};

struct StoppingSpec {
  std::optional<uint32_t> max_new_tokens;
  std::optional<uint32_t> min_new_tokens;
  std::vector<std::string> stop_strings;
  std::vector<uint32_t> stop_token_ids;
  bool include_stop_in_output = false;
  bool ignore_eos = false;
  std::optional<absl::Duration> time_limit;
};

// Where tokens of a prompt that is too long are removed; numbers of the API's.
enum class TruncationSide : int { kLeft = 1, kRight = 2 };

struct GenerationSpec {
  std::string request_id;
  std::string model;
  std::optional<std::string> text;  // one of text, token_ids and chat
  std::optional<std::vector<uint32_t>> token_ids;
  std::optional<ChatPrompt> chat;
  SamplingSpec sampling;
  StoppingSpec stopping;
  std::optional<ConstraintSpec> constraint;
  std::optional<uint32_t> top_logprobs;
  std::optional<uint32_t> top_prompt_logprobs;
  bool skip_special_tokens = true;
  bool bypass_prefix_cache = false;
  std::string cache_salt;
  int32_t priority = 0;
  std::optional<uint32_t> truncate_prompt_tokens;
  TruncationSide truncation_side = TruncationSide::kLeft;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_ADMISSION_GENERATION_SPEC_H_
