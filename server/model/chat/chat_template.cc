#include "server/model/chat/chat_template.h"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "server/model/chat/recognize.h"
#include "server/model/json_object.h"

namespace tauserve {
namespace {

using Json = nlohmann::json;

// Nothing if the file isn't there.
std::optional<std::string> ReadIfThere(const std::string& file) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(file, error)) return std::nullopt;
  std::ifstream stream(file, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
}

// A token is a string, or an object with its content; empty if absent.
std::string TokenOf(const Json& config, const char* key) {
  if (!config.contains(key) || config[key].is_null()) return "";
  const Json& token = config[key];
  return token.is_object() ? token.at("content").get<std::string>() : token.get<std::string>();
}

// A template is a string, or a list of named ones; empty if absent.
std::string TemplateOf(const Json& config) {
  if (!config.contains("chat_template") || config["chat_template"].is_null()) return "";
  const Json& value = config["chat_template"];
  if (!value.is_array()) return value.get<std::string>();
  for (const Json& named : value) {
    if (named.at("name") == "default") return named.at("template").get<std::string>();
  }
  return "";
}

absl::Status NoTemplate(absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat(why, "; the server can be told which to use: --chat_template=NAME, one of ",
                   ChatTemplateNames()));
}

}  // namespace

std::string ChatTemplateNames() {
  return absl::StrJoin(ChatFormats(), ", ", [](std::string* out, const ChatFormat& format) {
    absl::StrAppend(out, format.name);
  });
}

ChatTemplate::ChatTemplate() : status_(NoTemplate("the model has no chat template")) {}

absl::StatusOr<ChatTemplate> ChatTemplate::Load(const std::string& model_dir,
                                                const std::string& name,
                                                const Tokenizer* tokenizer) {
  ChatTemplate result;
  result.tokenizer_ = tokenizer;
  std::string jinja;
  const std::string file = model_dir + "/tokenizer_config.json";
  if (const std::optional<std::string> text = ReadIfThere(file)) {
    try {
      const absl::StatusOr<Json> parsed = ParseJson(file, text->data(), text->size());
      if (!parsed.ok()) return parsed.status();
      const Json& config = *parsed;
      result.tokens_ = {TokenOf(config, "bos_token"), TokenOf(config, "eos_token")};
      jinja = TemplateOf(config);
    } catch (const Json::exception& e) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": ", e.what()));
    }
  }
  jinja = ReadIfThere(model_dir + "/chat_template.jinja").value_or(jinja);
  if (name != "auto") {
    const ChatFormat* format = FindChatFormat(name);
    if (format == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(
          "chat template '", name, "' is not known: choose auto, ", ChatTemplateNames()));
    }
    result.format_ = *format;
    result.status_ = absl::OkStatus();
  } else if (!jinja.empty()) {
    result.status_ = result.UseModelsOwn(jinja);
  }
  if (!result.status_.ok()) return result;
  if (result.format_.family == ChatFamily::kMistral && result.tokens_.eos.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        file, ": no eos_token, which the chat template '", result.format_.name, "' writes"));
  }
  for (const std::string& marker : result.format_.markers) {
    const auto ours = tokenizer->EncodePieces({TextPiece{marker, true}});
    const auto theirs = tokenizer->EncodePieces({TextPiece{marker, false}});
    if (!ours.ok()) return ours.status();
    if (theirs.ok() && *ours == *theirs) result.text_markers_.push_back(marker);
  }
  return result;
}

absl::Status ChatTemplate::UseModelsOwn(const std::string& jinja) {
  std::optional<ChatFormat> format = RecognizeChatFormat(jinja);
  if (!format) return NoTemplate("the model's chat template is of a kind that is not known here");
  format_ = *std::move(format);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> ChatTemplate::Encode(const ChatPrompt& prompt) const {
  if (!status_.ok()) return status_;
  absl::StatusOr<std::vector<TextPiece>> pieces = RenderChat(format_, tokens_, prompt);
  if (!pieces.ok()) return pieces.status();
  for (size_t i = 0; i < prompt.messages.size(); i++) {
    for (const std::string& marker : text_markers_) {
      if (!absl::StrContains(prompt.messages[i].content, marker)) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "messages[", i, "].content has '", marker,
          "', which this model's tokenizer can't keep apart from the chat template's"));
    }
  }
  return tokenizer_->EncodePieces(*pieces);
}

}  // namespace tauserve
