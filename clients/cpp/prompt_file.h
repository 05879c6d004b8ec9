// Prompts with known answers, one JSON object a line: {"id", "prompt", "answer", "question", ...}
// (models/prompts).
#ifndef TAUSERVE_CLIENTS_CPP_PROMPT_FILE_H_
#define TAUSERVE_CLIENTS_CPP_PROMPT_FILE_H_

#include <string>

#include "absl/status/statusor.h"

namespace tauserve::client {

struct Prompt {
  std::string id;
  std::string text;
  std::string question;
  std::string answer;
};

// The prompt named `id`, or, if no prompt has that name and it is a number, that one, counted from
// 0; the first one if `id` is empty. NotFound or InvalidArgument with file, line and reason.
absl::StatusOr<Prompt> ReadPrompt(const std::string& file, const std::string& id);

// Whether a generated text is the expected answer, white space around it aside.
bool AnswerMatches(const Prompt& prompt, const std::string& text);

}  // namespace tauserve::client

#endif  // TAUSERVE_CLIENTS_CPP_PROMPT_FILE_H_
