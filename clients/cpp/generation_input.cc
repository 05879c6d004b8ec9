#include "clients/cpp/generation_input.h"

#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "clients/cpp/flags.h"

namespace tauserve::client {
namespace {

// Up to the end, or to an error, which leaves `stream` bad.
std::string ReadAll(std::istream& stream) {
  std::string text;
  std::vector<char> buffer(1 << 16);
  do {
    stream.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    text.append(buffer.data(), static_cast<size_t>(stream.gcount()));
  } while (stream.good());
  return text;
}

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

// The whole file; NotFound if it can't be read.
absl::StatusOr<std::string> ReadFile(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  std::string text = ReadAll(stream);
  if (!stream.is_open() || stream.bad()) {
    return absl::NotFoundError(absl::StrCat(file, ": cannot be read"));
  }
  return text;
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

absl::Status SetPrompt(const std::vector<std::string>& arguments, PromptedInput& result) {
  const std::vector<std::string> words = absl::GetFlag(FLAGS_token_ids);
  const std::string prompts = absl::GetFlag(FLAGS_prompts);
  const int places =
      !arguments.empty() + !absl::GetFlag(FLAGS_file).empty() + !words.empty() + !prompts.empty();
  if (arguments.size() > 1) {
    return absl::InvalidArgumentError("generate takes one prompt; quote it");
  }
  if (places > 1) {
    return absl::InvalidArgumentError(
        "one prompt only: an argument, --file, --prompts or --token_ids");
  }
  if (prompts.empty() && !absl::GetFlag(FLAGS_prompt_id).empty()) {
    return absl::InvalidArgumentError("--prompt_id needs --prompts");
  }
  if (!words.empty()) {
    const auto ids = ParseIds(words);
    if (!ids.ok()) return ids.status();
    result.input.mutable_token_ids()->mutable_ids()->Assign(ids->begin(), ids->end());
    return absl::OkStatus();
  }
  if (!prompts.empty()) {
    absl::StatusOr<Prompt> prompt = ReadPrompt(prompts, absl::GetFlag(FLAGS_prompt_id));
    if (!prompt.ok()) return prompt.status();
    result.input.set_text(prompt->text);
    result.expected = *std::move(prompt);
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> text = ReadText(arguments);
  if (!text.ok()) return text.status();
  result.input.set_text(*std::move(text));
  return absl::OkStatus();
}

// All but the prompt.
absl::Status SetParameters(const CommandLine& line, v1::GenerationInput& input) {
  if (absl::Status s = SetStopping(line.stop, *input.mutable_stopping()); !s.ok()) return s;
  SetSampling(*input.mutable_sampling());
  for (const std::string& word : line.bad_words) input.mutable_sampling()->add_bad_words(word);
  if (absl::Status s = SetStructuredOutput(input); !s.ok()) return s;
  input.set_request_id(absl::GetFlag(FLAGS_request_id));
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

void AddMessage(const char* role, std::string content, v1::GenerationInput& input) {
  v1::ChatMessage* message = input.mutable_chat()->add_messages();
  message->set_role(role);
  message->set_content(std::move(content));
}

}  // namespace

absl::StatusOr<PromptedInput> ReadGenerationInput(const CommandLine& line) {
  PromptedInput result;
  if (absl::Status s = SetParameters(line, result.input); !s.ok()) return s;
  if (auto v = absl::GetFlag(FLAGS_truncate_prompt_tokens)) {
    result.input.set_truncate_prompt_tokens(*v);
  }
  const std::string side = absl::GetFlag(FLAGS_truncation_side);
  if (side != "left" && side != "right") {
    return absl::InvalidArgumentError(
        absl::StrCat("--truncation_side is '", side, "', must be left or right"));
  }
  result.input.set_truncation_side(side == "left" ? v1::TRUNCATION_SIDE_LEFT
                                                  : v1::TRUNCATION_SIDE_RIGHT);
  if (absl::Status s = SetPrompt(line.arguments, result); !s.ok()) return s;
  return result;
}

absl::StatusOr<PromptedInput> ReadChatInput(const CommandLine& line, bool question) {
  PromptedInput result;
  if (absl::Status s = SetParameters(line, result.input); !s.ok()) return s;
  if (line.arguments.size() > 1) {
    return absl::InvalidArgumentError("chat takes one question; quote it");
  }
  const std::string system = absl::GetFlag(FLAGS_system);
  if (!system.empty()) AddMessage("system", system, result.input);
  if (!question) return result;
  absl::StatusOr<std::string> text = ReadText(line.arguments);
  if (!text.ok()) return text.status();
  AddMessage("user", *std::move(text), result.input);
  return result;
}

absl::StatusOr<std::string> ReadText(const std::vector<std::string>& arguments) {
  const std::string file = absl::GetFlag(FLAGS_file);
  if (arguments.size() + !file.empty() > 1) {
    return absl::InvalidArgumentError("one text only: an argument or --file");
  }
  if (!arguments.empty()) return arguments[0];
  if (file.empty() || file == "-") {
    if (isatty(STDIN_FILENO)) std::fprintf(stderr, "text from the terminal; Ctrl-D ends it\n");
    return ReadAll(std::cin);
  }
  return ReadFile(file);
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
