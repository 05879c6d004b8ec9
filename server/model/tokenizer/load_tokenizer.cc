#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
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

absl::StatusOr<Json> ReadJson(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) return absl::NotFoundError(absl::StrCat(file, ": cannot be opened"));
  return Json::parse(stream);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadJsonTokenizer(const std::string& file) {
  absl::StatusOr<Json> json = ReadJson(file);
  if (!json.ok()) return json.status();
  return ByteLevelTokenizer::FromJson(*json);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadModelTokenizer(const std::string& folder,
                                                              const std::string& file) {
  SentencePieceOptions options;
  const std::string config = folder + "/tokenizer_config.json";
  if (Exists(config)) {
    absl::StatusOr<Json> json = ReadJson(config);
    if (!json.ok()) return json.status();
    options.add_bos = json->value("add_bos_token", options.add_bos);
    options.add_eos = json->value("add_eos_token", options.add_eos);
  }
  return LoadSentencePiece(file, options);
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
        file == json ? LoadJsonTokenizer(file) : LoadModelTokenizer(model_dir, file);
    if (tokenizer.ok()) return tokenizer;
    return absl::Status(tokenizer.status().code(),
                        absl::StrCat(file, ": ", tokenizer.status().message()));
  } catch (const Json::exception& e) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": ", e.what()));
  }
}

}  // namespace tauserve
