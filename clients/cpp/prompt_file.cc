#include "clients/cpp/prompt_file.h"

#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace tauserve::client {

absl::StatusOr<Prompt> ReadPrompt(const std::string& file, const std::string& id) {
  std::ifstream stream(file);
  if (!stream) return absl::NotFoundError(absl::StrCat(file, ": cannot be opened"));
  std::string line;
  for (int number = 1; std::getline(stream, line); number++) {
    if (line.empty()) continue;
    const nlohmann::json json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    auto text = [&](const char* key) -> std::string {
      return json.is_object() && json.contains(key) && json[key].is_string()
                 ? json[key].get<std::string>()
                 : "";
    };
    if (text("prompt").empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ":", number, ": not a JSON object with a \"prompt\""));
    }
    if (!id.empty() && text("id") != id) continue;
    return Prompt{text("id"), text("prompt"), text("question"), text("answer")};
  }
  return absl::NotFoundError(absl::StrCat(file, ": no prompt '", id, "'"));
}

bool AnswerMatches(const Prompt& prompt, const std::string& text) {
  return absl::StripAsciiWhitespace(text) == absl::StripAsciiWhitespace(prompt.answer);
}

}  // namespace tauserve::client
