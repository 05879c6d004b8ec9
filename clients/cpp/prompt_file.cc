#include "clients/cpp/prompt_file.h"

#include <fstream>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace tauserve::client {
namespace {

std::string TextOf(const nlohmann::json& object, const char* key) {
  const auto member = object.find(key);
  return member != object.end() && member->is_string() ? member->get<std::string>() : "";
}

// Nothing if the line is no JSON object with a prompt.
std::optional<Prompt> ParsePrompt(const std::string& line) {
  const nlohmann::json json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || TextOf(json, "prompt").empty()) return std::nullopt;
  return Prompt{TextOf(json, "id"), TextOf(json, "prompt"), TextOf(json, "question"),
                TextOf(json, "answer")};
}

}  // namespace

absl::StatusOr<Prompt> ReadPrompt(const std::string& file, const std::string& id) {
  std::ifstream stream(file);
  if (!stream) return absl::NotFoundError(absl::StrCat(file, ": cannot be opened"));
  uint32_t wanted = 0;
  const bool by_number = id.empty() || absl::SimpleAtoi(id, &wanted);
  std::optional<Prompt> numbered;
  uint32_t count = 0;
  std::string line;
  for (int number = 1; std::getline(stream, line); number++) {
    if (line.empty()) continue;
    std::optional<Prompt> prompt = ParsePrompt(line);
    if (!prompt) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ":", number, ": not a JSON object with a \"prompt\""));
    }
    if (id.empty() || prompt->id == id) return *std::move(prompt);
    if (by_number && count == wanted) numbered = std::move(prompt);
    count++;
  }
  if (numbered) return *std::move(numbered);
  return absl::NotFoundError(
      absl::StrCat(file, ": no prompt '", id, "' among its ", count, " prompts"));
}

bool AnswerMatches(const Prompt& prompt, const std::string& text) {
  return absl::StripAsciiWhitespace(text) == absl::StripAsciiWhitespace(prompt.answer);
}

}  // namespace tauserve::client
