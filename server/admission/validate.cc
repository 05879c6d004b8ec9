#include "server/admission/validate.h"

#include <cmath>
#include <random>

#include "absl/strings/str_cat.h"

namespace tauserve {
namespace {

template <typename... Args>
absl::Status Invalid(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat(args...));
}

// False for NaN.
absl::Status Within(const char* field, float value, float lo, float hi) {
  if (value >= lo && value <= hi) return absl::OkStatus();
  return Invalid(field, " is ", value, ", must be in [", lo, ", ", hi, "]");
}

// (0, hi]
absl::Status Positive(const char* field, float value, float hi) {
  if (value > 0 && value <= hi) return absl::OkStatus();
  return Invalid(field, " is ", value, ", must be in (0, ", hi, "]");
}

uint64_t DrawSeed() {
  static thread_local std::random_device device;
  return uint64_t{device()} << 32 | device();
}

}  // namespace

absl::Status ValidateRequestId(const std::string& id) {
  if (id.size() > kMaxRequestIdBytes) {
    return Invalid("request_id has ", id.size(), " bytes, the limit is ", kMaxRequestIdBytes);
  }
  for (size_t i = 0; i < id.size(); i++) {
    if (id[i] < 0x21 || id[i] > 0x7e) {
      return Invalid("request_id has byte ", static_cast<int>(static_cast<uint8_t>(id[i])),
                     " at offset ", i, ", only printable ASCII without spaces is allowed");
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateToken(const char* field, uint32_t id, int32_t vocab_size) {
  if (id < static_cast<uint32_t>(vocab_size)) return absl::OkStatus();
  return Invalid(field, " has token id ", id, ", the vocabulary is [0, ", vocab_size, ")");
}

absl::StatusOr<SamplingParams> ResolveSampling(const SamplingSpec& spec,
                                               const SamplingParams& defaults, int32_t vocab_size) {
  const float temperature = spec.temperature.value_or(defaults.temperature);
  SamplingParams p = spec.temperature == 0.0f ? SamplingParams() : defaults;
  p.temperature = temperature;
  p.top_k = static_cast<int32_t>(std::min<uint32_t>(spec.top_k.value_or(p.top_k), vocab_size));
  p.top_p = spec.top_p.value_or(p.top_p);
  p.min_p = spec.min_p.value_or(p.min_p);
  p.typical_p = spec.typical_p.value_or(p.typical_p);
  p.repetition_penalty = spec.repetition_penalty.value_or(p.repetition_penalty);
  p.presence_penalty = spec.presence_penalty.value_or(p.presence_penalty);
  p.frequency_penalty = spec.frequency_penalty.value_or(p.frequency_penalty);
  p.seed = spec.seed ? *spec.seed : DrawSeed();
  const uint32_t candidates = spec.num_candidates.value_or(1);
  if (candidates < 1 || candidates > kMaxCandidates) {
    return Invalid("num_candidates is ", candidates, ", must be in [1, ", kMaxCandidates, "]");
  }
  p.num_candidates = static_cast<int32_t>(candidates);
  for (const absl::Status& s :
       {Within("temperature", p.temperature, 0, 100), Positive("top_p", p.top_p, 1),
        Within("min_p", p.min_p, 0, 1), Positive("typical_p", p.typical_p, 1),
        Positive("repetition_penalty", p.repetition_penalty, 100),
        Within("presence_penalty", p.presence_penalty, -2, 2),
        Within("frequency_penalty", p.frequency_penalty, -2, 2)}) {
    if (!s.ok()) return s;
  }
  if (spec.logit_bias.size() > kMaxLogitBiases) {
    return Invalid("logit_bias has ", spec.logit_bias.size(), " tokens, the limit is ",
                   kMaxLogitBiases);
  }
  for (const auto& [token, bias] : spec.logit_bias) {
    if (absl::Status s = ValidateToken("logit_bias", token, vocab_size); !s.ok()) return s;
    if (absl::Status s = Within("logit_bias", bias, -100, 100); !s.ok()) return s;
    p.logit_bias[static_cast<int32_t>(token)] = bias;
  }
  for (uint32_t token : spec.allowed_token_ids) {
    if (absl::Status s = ValidateToken("allowed_token_ids", token, vocab_size); !s.ok()) return s;
    p.allowed_token_ids.push_back(static_cast<int32_t>(token));
  }
  return p;
}

absl::StatusOr<std::vector<std::vector<int32_t>>> ResolveBadWords(const SamplingSpec& spec,
                                                                  const Tokenizer& tokenizer,
                                                                  int32_t vocab_size) {
  const size_t count = spec.bad_words.size() + spec.bad_words_ids.size();
  if (count > kMaxBadWords) {
    return Invalid("bad_words and bad_words_ids have ", count, " entries, the limit is ",
                   kMaxBadWords);
  }
  std::vector<std::vector<int32_t>> sequences;
  for (const std::string& word : spec.bad_words) {
    if (word.empty() || word.size() > kMaxBadWordLength) {
      return Invalid("a bad word has ", word.size(), " bytes, must have 1 to ", kMaxBadWordLength);
    }
    for (const char* before : {"", " "}) {
      if (*before != '\0' && word[0] == ' ') continue;
      const auto tokens = tokenizer.Encode(absl::StrCat(before, word), false);
      if (!tokens.ok()) return Invalid("bad_words: ", tokens.status().message());
      if (tokens->empty()) return Invalid("bad word '", word, "' has no tokens");
      sequences.push_back(*tokens);
    }
  }
  for (const std::vector<uint32_t>& ids : spec.bad_words_ids) {
    if (ids.empty() || ids.size() > kMaxBadWordLength) {
      return Invalid("an entry of bad_words_ids has ", ids.size(), " tokens, must have 1 to ",
                     kMaxBadWordLength);
    }
    for (uint32_t id : ids) {
      if (absl::Status s = ValidateToken("bad_words_ids", id, vocab_size); !s.ok()) return s;
    }
    sequences.emplace_back(ids.begin(), ids.end());
  }
  return sequences;
}

absl::StatusOr<StoppingParams> ResolveStopping(const StoppingSpec& spec, int32_t vocab_size) {
  StoppingParams p;
  if (spec.max_new_tokens == 0u) return Invalid("max_new_tokens is 0, must be at least 1");
  if (spec.stop_strings.size() > kMaxStopStrings) {
    return Invalid("stop_strings has ", spec.stop_strings.size(), " strings, the limit is ",
                   kMaxStopStrings);
  }
  for (const std::string& stop : spec.stop_strings) {
    if (stop.empty() || stop.size() > kMaxStopStringBytes) {
      return Invalid("a stop string has ", stop.size(), " bytes, must have 1 to ",
                     kMaxStopStringBytes);
    }
  }
  if (spec.stop_token_ids.size() > kMaxStopTokens) {
    return Invalid("stop_token_ids has ", spec.stop_token_ids.size(), " ids, the limit is ",
                   kMaxStopTokens);
  }
  for (uint32_t token : spec.stop_token_ids) {
    if (absl::Status s = ValidateToken("stop_token_ids", token, vocab_size); !s.ok()) return s;
    p.stop_token_ids.push_back(static_cast<int32_t>(token));
  }
  if (spec.time_limit && *spec.time_limit <= absl::ZeroDuration()) {
    return Invalid("time_limit is ", absl::FormatDuration(*spec.time_limit), ", must be positive");
  }
  p.stop_strings = spec.stop_strings;
  p.include_stop_in_output = spec.include_stop_in_output;
  p.ignore_eos = spec.ignore_eos;
  p.time_limit = spec.time_limit.value_or(absl::InfiniteDuration());
  return p;
}

}  // namespace tauserve
