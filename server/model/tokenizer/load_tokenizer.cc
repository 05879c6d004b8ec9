#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "server/model/json_object.h"
#include "server/model/tokenizer/byte_level_tokenizer.h"
#include "server/model/tokenizer/sentencepiece_tokenizer.h"
#include "server/model/tokenizer/tokenizer.h"

namespace tauserve {
namespace {

using Json = nlohmann::json;

bool Exists(const std::string& file) {
  std::error_code error;
  return std::filesystem::exists(file, error);
}

constexpr int64_t kMaxFileBytes = 256 << 20;

// A file of `folder`. Errors name it.
absl::StatusOr<Json> ReadJson(const std::string& folder, const std::string& name) {
  absl::StatusOr<std::string> text = ReadFile(folder + "/" + name, kMaxFileBytes);
  if (!text.ok()) return text.status();
  return ParseJson(name, text->data(), text->size());
}

// A tokenizer.json whose kind is unknown to us may have come with the tokenizer.model it was converted from, which does
// as well unless tokens were added in the conversion.
absl::Status ExpectSameAddedTokens(const Json& json, const Tokenizer& tokenizer) {
  if (!json.contains("added_tokens")) return absl::OkStatus();
  for (const Json& token : json.at("added_tokens")) {
    const int64_t id = token.at("id").get<int64_t>();
    const std::string content = token.at("content").get<std::string>();
    const bool known = id >= 0 && id < tokenizer.vocab_size();
    if (known && tokenizer.TokenString(static_cast<int32_t>(id)) == content) continue;
    return absl::UnimplementedError(
        absl::StrCat("token '", content, "' with id ", id, " is not in tokenizer.model"));
  }
  return absl::OkStatus();
}

// Whether the space before a text is only at its start: as the pre-tokenizer of tokenizer.json says where that is there
// (`json`), else as transformers reads `legacy`.
bool PrefixAtStartOnly(const Json& json, const Json& config) {
  if (json.is_null()) return config.contains("legacy") && config.at("legacy") == false;
  if (!json.contains("pre_tokenizer") || !json.at("pre_tokenizer").is_object()) return false;
  const Json& pre = json.at("pre_tokenizer");
  return pre.value("type", "") == "Metaspace" && pre.value("prepend_scheme", "") == "first";
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadModelTokenizer(const std::string& folder,
                                                              const Json& json) {
  SentencePieceOptions options;
  Json settings = Json::object();
  const std::string config = "tokenizer_config.json";
  if (Exists(folder + "/" + config)) {
    absl::StatusOr<Json> read = ReadJson(folder, config);
    if (!read.ok()) return read.status();
    settings = *std::move(read);
    options.add_bos = settings.value("add_bos_token", options.add_bos);
    options.add_eos = settings.value("add_eos_token", options.add_eos);
  }
  options.prefix_at_start_only = PrefixAtStartOnly(json, settings);
  return LoadSentencePiece(folder + "/tokenizer.model", options);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadJsonTokenizer(const std::string& folder) {
  absl::StatusOr<Json> json = ReadJson(folder, "tokenizer.json");
  if (!json.ok()) return json.status();
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = ByteLevelTokenizer::FromJson(*json);
  if (!absl::IsUnimplemented(tokenizer.status())) return tokenizer;
  if (!Exists(folder + "/tokenizer.model")) return tokenizer;
  absl::StatusOr<std::unique_ptr<Tokenizer>> other = LoadModelTokenizer(folder, *json);
  const absl::Status fits = other.ok() ? ExpectSameAddedTokens(*json, **other) : other.status();
  if (fits.ok()) return other;
  return absl::Status(
      tokenizer.status().code(),
      absl::StrCat(tokenizer.status().message(),
                   " is not supported, and tokenizer.model can't stand in: ", fits.message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& model_dir) {
  const std::string json = model_dir + "/tokenizer.json";
  const std::string model = model_dir + "/tokenizer.model";
  const std::string& file = Exists(json) ? json : model;
  if (!Exists(file)) {
    return absl::NotFoundError(
        absl::StrCat(model_dir, ": neither tokenizer.json nor tokenizer.model is there"));
  }
  try {
    absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
        file == json ? LoadJsonTokenizer(model_dir) : LoadModelTokenizer(model_dir, Json());
    if (tokenizer.ok()) return tokenizer;
    return absl::Status(tokenizer.status().code(),
                        absl::StrCat(file, ": ", tokenizer.status().message()));
  } catch (const Json::exception& e) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": ", e.what()));
  }
}

}  // namespace tauserve
