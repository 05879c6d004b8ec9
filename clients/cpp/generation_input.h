// What `tauserve-cli generate` and `chat` ask for, from its arguments, its flags, a file or standard input.
#ifndef TAUSERVE_CLIENTS_CPP_GENERATION_INPUT_H_
#define TAUSERVE_CLIENTS_CPP_GENERATION_INPUT_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "clients/cpp/command_line.h"
#include "clients/cpp/prompt_file.h"
#include "tauserve/inference/v1/inference.pb.h"

namespace tauserve::client {

namespace v1 = tauserve::inference::v1;

struct PromptedInput {
  v1::GenerationInput input;
  std::optional<Prompt> expected;  // of --prompts: its answer is known
};

// InvalidArgument or NotFound if the prompt comes from two places, a file can't be read or an id is
// no number. A flag that was not given leaves its field unset: the model's default.
absl::StatusOr<PromptedInput> ReadGenerationInput(const CommandLine& line);

// The question of `chat`, after --system; without one (no `question`) that alone.
absl::StatusOr<PromptedInput> ReadChatInput(const CommandLine& line, bool question);

// The text of `tokenize`: the argument, else --file, else standard input.
absl::StatusOr<std::string> ReadText(const std::vector<std::string>& arguments);

}  // namespace tauserve::client

#endif  // TAUSERVE_CLIENTS_CPP_GENERATION_INPUT_H_
