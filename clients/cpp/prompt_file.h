// Prompts with known answers, one JSON object a line: {"id", "prompt", "answer", "question", "max_new_tokens",
// ...}
// (models/prompts).
#ifndef TAUSERVE_CLIENTS_CPP_PROMPT_FILE_H_
#define TAUSERVE_CLIENTS_CPP_PROMPT_FILE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tauserve::client {

struct Prompt {
  std::string id;
  std::string text;
  std::string question;
  std::string answer;
  std::optional<uint32_t> max_new_tokens = std::nullopt;  // of a request with this prompt
};

// The prompt named `id`, or, if no prompt has that name and it is a number, that one, counted from
// 0; the first one if `id` is empty. NotFound or InvalidArgument with file, line and reason.
absl::StatusOr<Prompt> ReadPrompt(const std::string& file, const std::string& id);

// All prompts, at least one.
absl::StatusOr<std::vector<Prompt>> ReadPrompts(const std::string& file);

// Whether a generated text is the expected answer, white space around it aside.
bool AnswerMatches(const Prompt& prompt, const std::string& text);

}  // namespace tauserve::client

#endif  // TAUSERVE_CLIENTS_CPP_PROMPT_FILE_H_
