// The flags that are fields of the API's GenerationInput, by their names there, and the input that
// they make.
#ifndef TAUSERVE_CLIENTS_CPP_GENERATION_FLAGS_H_
#define TAUSERVE_CLIENTS_CPP_GENERATION_FLAGS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/flags/declare.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "tauserve/inference/v1/inference.pb.h"

ABSL_DECLARE_FLAG(std::string, model);
ABSL_DECLARE_FLAG(absl::optional<float>, temperature);
ABSL_DECLARE_FLAG(absl::optional<uint32_t>, top_k);
ABSL_DECLARE_FLAG(absl::optional<float>, top_p);
ABSL_DECLARE_FLAG(absl::optional<float>, min_p);
ABSL_DECLARE_FLAG(absl::optional<float>, typical_p);
ABSL_DECLARE_FLAG(absl::optional<float>, repetition_penalty);
ABSL_DECLARE_FLAG(absl::optional<float>, presence_penalty);
ABSL_DECLARE_FLAG(absl::optional<float>, frequency_penalty);
ABSL_DECLARE_FLAG(absl::optional<uint64_t>, seed);
ABSL_DECLARE_FLAG(absl::optional<uint32_t>, num_candidates);
ABSL_DECLARE_FLAG(std::string, regex);
ABSL_DECLARE_FLAG(std::string, json_schema);
ABSL_DECLARE_FLAG(bool, json_object);
ABSL_DECLARE_FLAG(absl::optional<uint32_t>, max_new_tokens);
ABSL_DECLARE_FLAG(absl::optional<uint32_t>, min_new_tokens);
ABSL_DECLARE_FLAG(std::vector<std::string>, stop_token_ids);
ABSL_DECLARE_FLAG(bool, include_stop_in_output);
ABSL_DECLARE_FLAG(bool, ignore_eos);
ABSL_DECLARE_FLAG(absl::optional<absl::Duration>, time_limit);
ABSL_DECLARE_FLAG(absl::optional<uint32_t>, top_logprobs);
ABSL_DECLARE_FLAG(absl::optional<uint32_t>, top_prompt_logprobs);
ABSL_DECLARE_FLAG(bool, return_token_ids);
ABSL_DECLARE_FLAG(bool, skip_special_tokens);
ABSL_DECLARE_FLAG(bool, bypass_prefix_cache);
ABSL_DECLARE_FLAG(std::string, salt);
ABSL_DECLARE_FLAG(int32_t, priority);

namespace tauserve::client {

namespace v1 = tauserve::inference::v1;

// No flags of Abseil's: they may be given several times, and those keep one value.
inline constexpr char kStopFlag[] = "stop";
inline constexpr char kStopHelp[] = "end before this text; may be given several times";
inline constexpr char kBadWordFlag[] = "bad_word";
inline constexpr char kBadWordHelp[] = "text not to generate; may be given several times";

// `before`, the names of the flags that shape what a token is drawn from, and `after`.
std::vector<const char*> WithSamplingFlags(std::vector<const char*> before,
                                           const std::vector<const char*>& after);

// Sets all but the prompt and the request's name. A flag that was not given leaves its field unset:
// the model's default. InvalidArgument or NotFound if flags contradict each other, a file can't be
// read or an id is no number.
absl::Status SetGenerationParameters(const std::vector<std::string>& stop,
                                     const std::vector<std::string>& bad_words,
                                     v1::GenerationInput& input);

absl::StatusOr<std::vector<uint32_t>> ParseIds(const std::vector<std::string>& words);

}  // namespace tauserve::client

#endif  // TAUSERVE_CLIENTS_CPP_GENERATION_FLAGS_H_
