#include "clients/cpp/generation_flags.h"

#include <utility>

#include "absl/flags/flag.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "clients/cpp/text_file.h"

ABSL_FLAG(std::string, model, "", "name of the model; else the served one");
ABSL_FLAG(absl::optional<float>, temperature, absl::nullopt, "0: greedy");
ABSL_FLAG(absl::optional<uint32_t>, top_k, absl::nullopt, "0: off");
ABSL_FLAG(absl::optional<float>, top_p, absl::nullopt, "in (0, 1]");
ABSL_FLAG(absl::optional<float>, min_p, absl::nullopt, "in [0, 1]");
ABSL_FLAG(absl::optional<float>, typical_p, absl::nullopt, "in (0, 1]");
ABSL_FLAG(absl::optional<float>, repetition_penalty, absl::nullopt, "1: off");
ABSL_FLAG(absl::optional<float>, presence_penalty, absl::nullopt, "0: off");
ABSL_FLAG(absl::optional<float>, frequency_penalty, absl::nullopt, "0: off");
ABSL_FLAG(absl::optional<uint64_t>, seed, absl::nullopt, "same seed, same tokens");
ABSL_FLAG(absl::optional<uint32_t>, num_candidates, absl::nullopt,
          "so many continuations, shown one after the other at the end");
ABSL_FLAG(std::string, regex, "", "what the whole output matches");
ABSL_FLAG(std::string, json_schema, "",
          "the output is JSON of this schema: a file, or itself if it begins with {");
ABSL_FLAG(bool, json_object, false, "the output is a JSON object");
ABSL_FLAG(absl::optional<uint32_t>, max_new_tokens, absl::nullopt, "most tokens to generate");
ABSL_FLAG(absl::optional<uint32_t>, min_new_tokens, absl::nullopt, "fewest tokens to generate");
ABSL_FLAG(std::vector<std::string>, stop_token_ids, {}, "end at these tokens, comma between");
ABSL_FLAG(bool, include_stop_in_output, false, "show the stop text or token as well");
ABSL_FLAG(bool, ignore_eos, false, "go on after the model's end token");
ABSL_FLAG(absl::optional<absl::Duration>, time_limit, absl::nullopt,
          "end, with what there is, after this time");
ABSL_FLAG(absl::optional<uint32_t>, top_logprobs, absl::nullopt,
          "with --json: log-probabilities and so many alternatives");
ABSL_FLAG(absl::optional<uint32_t>, top_prompt_logprobs, absl::nullopt,
          "the same of the prompt's tokens");
ABSL_FLAG(bool, return_token_ids, false, "with --json: token ids");
ABSL_FLAG(bool, skip_special_tokens, true, "leave special tokens out of the text");
ABSL_FLAG(bool, bypass_prefix_cache, false, "neither use nor leave cached pages");
ABSL_FLAG(std::string, salt, "", "share cached pages only with requests of the same salt");
ABSL_FLAG(int32_t, priority, 0, "lower is served earlier; a unit counts as 10 s of waiting");

namespace tauserve::client {
namespace {

void SetSampling(v1::SamplingParameters& p) {
  if (auto v = absl::GetFlag(FLAGS_temperature)) p.set_temperature(*v);
  if (auto v = absl::GetFlag(FLAGS_top_k)) p.set_top_k(*v);
  if (auto v = absl::GetFlag(FLAGS_top_p)) p.set_top_p(*v);
  if (auto v = absl::GetFlag(FLAGS_min_p)) p.set_min_p(*v);
  if (auto v = absl::GetFlag(FLAGS_typical_p)) p.set_typical_p(*v);
  if (auto v = absl::GetFlag(FLAGS_repetition_penalty)) p.set_repetition_penalty(*v);
  if (auto v = absl::GetFlag(FLAGS_presence_penalty)) p.set_presence_penalty(*v);
  if (auto v = absl::GetFlag(FLAGS_frequency_penalty)) p.set_frequency_penalty(*v);
  if (auto v = absl::GetFlag(FLAGS_seed)) p.set_seed(*v);
  if (auto v = absl::GetFlag(FLAGS_num_candidates)) p.set_num_candidates(*v);
}

absl::Status SetStructuredOutput(v1::GenerationInput& input) {
  const std::string regex = absl::GetFlag(FLAGS_regex), schema = absl::GetFlag(FLAGS_json_schema);
  const bool json_object = absl::GetFlag(FLAGS_json_object);
  if (!regex.empty() + !schema.empty() + json_object > 1) {
    return absl::InvalidArgumentError("one only: --regex, --json_schema or --json_object");
  }
  if (!regex.empty()) input.mutable_structured_output()->set_regex(regex);
  if (json_object) input.mutable_structured_output()->mutable_json_object();
  if (schema.empty()) return absl::OkStatus();
  if (schema[0] == '{') {
    input.mutable_structured_output()->set_json_schema(schema);
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> text = ReadFile(schema);
  if (!text.ok()) return text.status();
  input.mutable_structured_output()->set_json_schema(*std::move(text));
  return absl::OkStatus();
}

absl::Status SetStopping(const std::vector<std::string>& stop, v1::StoppingCriteria& c) {
  if (auto v = absl::GetFlag(FLAGS_max_new_tokens)) c.set_max_new_tokens(*v);
  if (auto v = absl::GetFlag(FLAGS_min_new_tokens)) c.set_min_new_tokens(*v);
  for (const std::string& text : stop) c.add_stop_strings(text);
  const auto ids = ParseIds(absl::GetFlag(FLAGS_stop_token_ids));
  if (!ids.ok()) return ids.status();
  c.mutable_stop_token_ids()->Assign(ids->begin(), ids->end());
  if (absl::GetFlag(FLAGS_include_stop_in_output)) c.set_include_stop_in_output(true);
  if (absl::GetFlag(FLAGS_ignore_eos)) c.set_ignore_eos(true);
  if (auto limit = absl::GetFlag(FLAGS_time_limit); limit && *limit < absl::InfiniteDuration()) {
    const int64_t seconds = absl::ToInt64Seconds(*limit);
    c.mutable_time_limit()->set_seconds(seconds);
    c.mutable_time_limit()->set_nanos(
        static_cast<int32_t>(absl::ToInt64Nanoseconds(*limit - absl::Seconds(seconds))));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<const char*> WithSamplingFlags(std::vector<const char*> before,
                                           const std::vector<const char*>& after) {
  before.insert(before.end(), {"temperature", "top_k", "top_p", "min_p", "typical_p",
                               "repetition_penalty", "presence_penalty", "frequency_penalty"});
  before.insert(before.end(), after.begin(), after.end());
  return before;
}

absl::Status SetGenerationParameters(const std::vector<std::string>& stop,
                                     const std::vector<std::string>& bad_words,
                                     v1::GenerationInput& input) {
  if (absl::Status s = SetStopping(stop, *input.mutable_stopping()); !s.ok()) return s;
  SetSampling(*input.mutable_sampling());
  for (const std::string& word : bad_words) input.mutable_sampling()->add_bad_words(word);
  if (absl::Status s = SetStructuredOutput(input); !s.ok()) return s;
  input.set_model(absl::GetFlag(FLAGS_model));
  if (auto v = absl::GetFlag(FLAGS_top_logprobs)) input.mutable_response()->set_top_logprobs(*v);
  if (auto v = absl::GetFlag(FLAGS_top_prompt_logprobs)) {
    input.mutable_response()->set_top_prompt_logprobs(*v);
  }
  if (absl::GetFlag(FLAGS_return_token_ids)) input.mutable_response()->set_token_ids(true);
  if (!absl::GetFlag(FLAGS_skip_special_tokens)) {
    input.mutable_response()->set_skip_special_tokens(false);
  }
  if (absl::GetFlag(FLAGS_bypass_prefix_cache)) {
    input.mutable_cache()->set_bypass_prefix_cache(true);
  }
  input.mutable_cache()->set_salt(absl::GetFlag(FLAGS_salt));
  input.mutable_scheduling()->set_priority(absl::GetFlag(FLAGS_priority));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<uint32_t>> ParseIds(const std::vector<std::string>& words) {
  std::vector<uint32_t> ids;
  for (const std::string& word : words) {
    uint32_t id = 0;
    if (!absl::SimpleAtoi(word, &id)) {
      return absl::InvalidArgumentError(absl::StrCat("'", word, "' is no token id"));
    }
    ids.push_back(id);
  }
  return ids;
}

}  // namespace tauserve::client
