// Ranges of what clients send. Every refusal is InvalidArgument and names the field, its value and the limit.
#ifndef TAUSERVE_SERVER_ADMISSION_VALIDATE_H_
#define TAUSERVE_SERVER_ADMISSION_VALIDATE_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/admission/generation_spec.h"
#include "server/model/tokenizer/tokenizer.h"
#include "server/request/request.h"

namespace tauserve {

inline constexpr int kMaxStopStrings = 16;
inline constexpr int kMaxStopStringBytes = 256;
inline constexpr int kMaxStopTokens = 64;
inline constexpr int kMaxTopLogprobs = 20;  // of the output's tokens, and of the prompt's
inline constexpr uint32_t kMaxCandidates = 64;
inline constexpr int kMaxRequestIdBytes = 128;
inline constexpr int kMaxSaltBytes = 128;
inline constexpr int32_t kMaxPriority = 100;  // either way
inline constexpr int kMaxLogitBiases = 1024;
inline constexpr int kMaxBadWords = 256;       // words and sequences of ids together
inline constexpr int kMaxBadWordLength = 256;  // bytes of a word, tokens of a sequence

absl::Status ValidateRequestId(const std::string& id);

// `defaults` fill what the request leaves unset; where the request is greedy, only what it sets itself counts. Bad words
// are ResolveBadWords'.
absl::StatusOr<SamplingParams> ResolveSampling(const SamplingSpec& spec,
                                               const SamplingParams& defaults, int32_t vocab_size);

// The sequences of tokens that `spec` forbids: a word as it is tokenized alone, and behind a space unless it begins with
// one.
absl::StatusOr<std::vector<std::vector<int32_t>>> ResolveBadWords(const SamplingSpec& spec,
                                                                  const Tokenizer& tokenizer,
                                                                  int32_t vocab_size);

// All but max_new_tokens, which depends on the prompt.
absl::StatusOr<StoppingParams> ResolveStopping(const StoppingSpec& spec, int32_t vocab_size);

// InvalidArgument if `id` is not in [0, vocab_size); `field` is for the message.
absl::Status ValidateToken(const char* field, uint32_t id, int32_t vocab_size);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_ADMISSION_VALIDATE_H_
