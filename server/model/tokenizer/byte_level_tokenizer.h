// The byte-level BPE tokenizer of a tokenizer.json (GPT-2, Llama 3, Qwen2, SmolLM2 and their like).
#ifndef TAUSERVE_SERVER_MODEL_TOKENIZER_BYTE_LEVEL_TOKENIZER_H_
#define TAUSERVE_SERVER_MODEL_TOKENIZER_BYTE_LEVEL_TOKENIZER_H_

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "nlohmann/json_fwd.hpp"
#include "server/model/tokenizer/added_tokens.h"
#include "server/model/tokenizer/bpe.h"
#include "server/model/tokenizer/pre_tokenizer.h"
#include "server/model/tokenizer/tokenizer.h"

namespace tauserve {

class ByteLevelTokenizer : public Tokenizer {
 public:
  // May throw nlohmann::json exceptions for wrong types and missing keys; LoadTokenizer turns them into statuses.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromJson(const nlohmann::json& json);

  int32_t vocab_size() const override { return static_cast<int32_t>(spellings_.size()); }
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                              bool add_special_tokens) const override;
  absl::StatusOr<std::vector<int32_t>> EncodePieces(
      absl::Span<const TextPiece> pieces) const override;
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids,
                                     bool skip_special_tokens) const override;
  std::string TokenBytes(int32_t id, bool first) const override;
  std::string TokenString(int32_t id) const override;
  bool IsSpecial(int32_t id) const override;

 private:
  ByteLevelTokenizer();
  absl::Status ReadVocabulary(const nlohmann::json& model);
  absl::Status ReadMerges(const nlohmann::json& model);
  absl::Status ReadAddedTokens(const nlohmann::json& tokens);
  absl::Status ReadNormalizer(const nlohmann::json& json);
  absl::Status ReadPostProcessor(const nlohmann::json& json);
  absl::Status PutSpelling(int32_t id, const std::string& spelling);

  std::string Normalize(absl::string_view text) const;
  // `trusted` parts of `text` are where control tokens may be. Appends.
  absl::Status EncodeText(absl::string_view text, absl::Span<const TextRange> trusted,
                          std::vector<int32_t>& ids) const;
  absl::Status EncodeSegment(absl::string_view segment, std::vector<int32_t>& ids) const;
  void EncodeWord(absl::string_view word, std::vector<int32_t>& ids) const;

  std::array<std::string, 256> byte_spelling_;  // GPT-2's printable character of each byte
  absl::flat_hash_map<uint32_t, uint8_t> spelled_byte_;
  std::array<int32_t, 256> byte_id_;  // -1: not in the vocabulary
  absl::flat_hash_map<std::string, int32_t> vocabulary_;
  std::vector<std::string> spellings_;  // by id; empty for an unused one
  std::vector<bool> special_;
  BpeMerges merges_;
  bool ignore_merges_ = false;
  bool nfc_ = false;
  AddedTokenMatcher raw_tokens_;         // found in the text as it came
  AddedTokenMatcher normalized_tokens_;  // found in normalized text
  PreTokenizer pre_tokenizer_;
  std::vector<int32_t> prefix_;  // what the post-processor puts before and behind the text
  std::vector<int32_t> suffix_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_MODEL_TOKENIZER_BYTE_LEVEL_TOKENIZER_H_
