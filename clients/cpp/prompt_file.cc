#include "clients/cpp/prompt_file.h"

#include <fstream>
#include <functional>
#include <optional>
#include <utility>

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

std::optional<uint32_t> CountOf(const nlohmann::json& object, const char* key) {
  const auto member = object.find(key);
  if (member == object.end() || !member->is_number_unsigned()) return std::nullopt;
  const uint64_t count = member->get<uint64_t>();
  return count <= UINT32_MAX ? std::optional<uint32_t>(count) : std::nullopt;
}

// Nothing if the line is no JSON object with a prompt.
std::optional<Prompt> ParsePrompt(const std::string& line) {
  const nlohmann::json json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || TextOf(json, "prompt").empty()) return std::nullopt;
  return Prompt{TextOf(json, "id"), TextOf(json, "prompt"), TextOf(json, "question"),
                TextOf(json, "answer"), CountOf(json, "max_new_tokens")};
}

// Hands over the prompts of the file until `take` says that it has enough.
absl::Status VisitPrompts(const std::string& file, const std::function<bool(Prompt)>& take) {
  std::ifstream stream(file);
  if (!stream) return absl::NotFoundError(absl::StrCat(file, ": cannot be opened"));
  std::string line;
  for (int number = 1; std::getline(stream, line); number++) {
    if (line.empty()) continue;
    std::optional<Prompt> prompt = ParsePrompt(line);
    if (!prompt) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ":", number, ": not a JSON object with a \"prompt\""));
    }
    if (!take(*std::move(prompt))) break;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<Prompt>> ReadPrompts(const std::string& file) {
  std::vector<Prompt> prompts;
  const absl::Status status = VisitPrompts(file, [&](Prompt prompt) {
    prompts.push_back(std::move(prompt));
    return true;
  });
  if (!status.ok()) return status;
  if (prompts.empty()) return absl::NotFoundError(absl::StrCat(file, ": no prompts"));
  return prompts;
}

absl::StatusOr<Prompt> ReadPrompt(const std::string& file, const std::string& id) {
  uint32_t wanted = 0;
  const bool by_number = id.empty() || absl::SimpleAtoi(id, &wanted);
  std::optional<Prompt> named, numbered;
  uint32_t count = 0;
  const absl::Status status = VisitPrompts(file, [&](Prompt prompt) {
    if (id.empty() || prompt.id == id) {
      named = std::move(prompt);
      return false;
    }
    if (by_number && count == wanted) numbered = std::move(prompt);
    count++;
    return true;
  });
  if (!status.ok()) return status;
  if (named) return *std::move(named);
  if (numbered) return *std::move(numbered);
  return absl::NotFoundError(
      absl::StrCat(file, ": no prompt '", id, "' among its ", count, " prompts"));
}

bool AnswerMatches(const Prompt& prompt, const std::string& text) {
  return absl::StripAsciiWhitespace(text) == absl::StripAsciiWhitespace(prompt.answer);
}

}  // namespace tauserve::client
