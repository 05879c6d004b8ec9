#include "clients/cpp/generation_input.h"

#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "clients/cpp/flags.h"
#include "clients/cpp/text_file.h"

namespace tauserve::client {
namespace {

// All but the prompt.
absl::Status SetParameters(const CommandLine& line, v1::GenerationInput& input) {
  input.set_request_id(absl::GetFlag(FLAGS_request_id));
  return SetGenerationParameters(line.stop, line.bad_words, input);
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

}  // namespace tauserve::client
