#include "server/model/tokenizer/byte_level_tokenizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "server/model/tokenizer/utf8.h"

namespace tauserve {
namespace {

// Several times the largest in use. A spelling is kept for every id, so that one absurd id would take all memory.
constexpr int32_t kMaxVocabulary = 1 << 21;

using Json = nlohmann::json;

}  // namespace

// GPT-2's table: printable Latin-1 stands for itself, the other bytes for U+0100 and on, in order.
ByteLevelTokenizer::ByteLevelTokenizer() {
  uint32_t next = 0x100;
  for (uint32_t b = 0; b < 256; b++) {
    const bool printable = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
    const uint32_t code = printable ? b : next++;
    AppendUtf8(code, byte_spelling_[b]);
    spelled_byte_[code] = static_cast<uint8_t>(b);
  }
  byte_id_.fill(-1);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> ByteLevelTokenizer::FromJson(const Json& json) {
  const Json& model = json.at("model");
  const std::string type = model.value("type", "BPE");
  if (type != "BPE") return absl::UnimplementedError(absl::StrCat("model type '", type, "'"));
  if (model.value("byte_fallback", false)) {
    return absl::UnimplementedError("BPE with byte_fallback");
  }
  std::unique_ptr<ByteLevelTokenizer> t(new ByteLevelTokenizer());
  t->ignore_merges_ = model.value("ignore_merges", false);
  const Json null;
  auto part = [&](const char* name) -> const Json& {
    return json.contains(name) ? json.at(name) : null;
  };
  absl::StatusOr<PreTokenizer> pre = PreTokenizer::FromJson(part("pre_tokenizer"));
  if (!pre.ok()) return pre.status();
  t->pre_tokenizer_ = *std::move(pre);
  const Json& decoder = part("decoder");
  if (decoder.is_null() || decoder.at("type") != "ByteLevel") {
    return absl::UnimplementedError(absl::StrCat("decoder ", decoder.dump()));
  }
  for (absl::Status s :
       {t->ReadVocabulary(model), t->ReadMerges(model), t->ReadAddedTokens(part("added_tokens")),
        t->ReadNormalizer(part("normalizer")), t->ReadPostProcessor(part("post_processor"))}) {
    if (!s.ok()) return s;
  }
  return t;
}

absl::Status ByteLevelTokenizer::PutSpelling(int32_t id, const std::string& spelling) {
  if (id < 0 || id >= kMaxVocabulary) {
    return absl::InvalidArgumentError(
        absl::StrCat("token '", spelling, "' has id ", id, ", not in [0, ", kMaxVocabulary, ")"));
  }
  if (static_cast<size_t>(id) >= spellings_.size()) {
    spellings_.resize(id + 1);
    special_.resize(id + 1);
  }
  if (!spellings_[id].empty() && spellings_[id] != spelling) {
    return absl::InvalidArgumentError(
        absl::StrCat("id ", id, " is given to '", spellings_[id], "' and to '", spelling, "'"));
  }
  spellings_[id] = spelling;
  return absl::OkStatus();
}

absl::Status ByteLevelTokenizer::ReadVocabulary(const Json& model) {
  for (const auto& [spelling, id] : model.at("vocab").items()) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= kMaxVocabulary) {
      return absl::InvalidArgumentError(absl::StrCat("token '", spelling, "' has id ", id.dump(),
                                                     ", not in [0, ", kMaxVocabulary, ")"));
    }
    if (absl::Status s = PutSpelling(id.get<int32_t>(), spelling); !s.ok()) return s;
    vocabulary_[spelling] = id.get<int32_t>();
  }
  if (vocabulary_.empty()) return absl::InvalidArgumentError("the vocabulary is empty");
  for (int b = 0; b < 256; b++) {
    const auto it = vocabulary_.find(byte_spelling_[b]);
    if (it != vocabulary_.end()) byte_id_[b] = it->second;
  }
  return absl::OkStatus();
}

absl::Status ByteLevelTokenizer::ReadMerges(const Json& model) {
  int32_t rank = 0;
  for (const Json& merge : model.at("merges")) {
    std::string left, right;
    if (merge.is_array()) {
      left = merge.at(0).get<std::string>();
      right = merge.at(1).get<std::string>();
    } else {
      const std::string pair = merge.get<std::string>();
      const size_t space = pair.find(' ');
      if (space == std::string::npos) {
        return absl::InvalidArgumentError(absl::StrCat("merge ", rank, " is '", pair, "'"));
      }
      left = pair.substr(0, space);
      right = pair.substr(space + 1);
    }
    for (const std::string& token : {left, right, left + right}) {
      if (!vocabulary_.contains(token)) {
        return absl::InvalidArgumentError(
            absl::StrCat("merge ", rank, " needs '", token, "', which is not in the vocabulary"));
      }
    }
    merges_.Add(vocabulary_[left], vocabulary_[right], rank++, vocabulary_[left + right]);
  }
  return absl::OkStatus();
}

absl::Status ByteLevelTokenizer::ReadAddedTokens(const Json& tokens) {
  if (tokens.is_null()) return absl::OkStatus();
  for (const Json& json : tokens) {
    AddedToken token;
    token.id = json.at("id").get<int32_t>();
    token.content = json.at("content").get<std::string>();
    token.special = json.value("special", false);
    token.single_word = json.value("single_word", false);
    token.lstrip = json.value("lstrip", false);
    token.rstrip = json.value("rstrip", false);
    token.normalized = json.value("normalized", !token.special);
    if (absl::Status s = PutSpelling(token.id, token.content); !s.ok()) return s;
    special_[token.id] = token.special;
    (token.normalized ? normalized_tokens_ : raw_tokens_).Add(token);
  }
  return absl::OkStatus();
}

absl::Status ByteLevelTokenizer::ReadNormalizer(const Json& json) {
  if (json.is_null()) return absl::OkStatus();
  const std::string type = json.at("type").get<std::string>();
  if (type == "Sequence") {
    for (const Json& part : json.at("normalizers")) {
      if (absl::Status s = ReadNormalizer(part); !s.ok()) return s;
    }
    return absl::OkStatus();
  }
  if (type != "NFC") return absl::UnimplementedError(absl::StrCat("normalizer '", type, "'"));
  nfc_ = true;
  return absl::OkStatus();
}

absl::Status ByteLevelTokenizer::ReadPostProcessor(const Json& json) {
  if (json.is_null()) return absl::OkStatus();
  const std::string type = json.at("type").get<std::string>();
  if (type == "ByteLevel") return absl::OkStatus();  // moves offsets only
  if (type == "Sequence") {
    for (const Json& part : json.at("processors")) {
      if (absl::Status s = ReadPostProcessor(part); !s.ok()) return s;
    }
    return absl::OkStatus();
  }
  if (type != "TemplateProcessing") {
    return absl::UnimplementedError(absl::StrCat("post_processor '", type, "'"));
  }
  bool before = true;
  for (const Json& part : json.at("single")) {
    if (part.contains("Sequence")) {
      before = false;
      continue;
    }
    const std::string name = part.at("SpecialToken").at("id").get<std::string>();
    for (const Json& id : json.at("special_tokens").at(name).at("ids")) {
      const int32_t token = id.get<int32_t>();
      if (token < 0 || token >= vocab_size()) {
        return absl::InvalidArgumentError(absl::StrCat("the post_processor's token '", name,
                                                       "' has id ", token, ", the vocabulary has ",
                                                       vocab_size(), " tokens"));
      }
      (before ? prefix_ : suffix_).push_back(token);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> ByteLevelTokenizer::Encode(absl::string_view text,
                                                                bool add_special_tokens) const {
  if (absl::Status s = CheckUtf8(text); !s.ok()) return s;
  std::vector<int32_t> ids;
  if (add_special_tokens) ids = prefix_;
  const TextRange all{0, text.size()};
  if (absl::Status s = EncodeText(text, absl::MakeConstSpan(&all, 1), ids); !s.ok()) return s;
  if (add_special_tokens) ids.insert(ids.end(), suffix_.begin(), suffix_.end());
  return ids;
}

absl::StatusOr<std::vector<int32_t>> ByteLevelTokenizer::EncodePieces(
    absl::Span<const TextPiece> pieces) const {
  std::vector<TextRange> trusted;
  const std::string text = Concatenate(pieces, trusted);
  if (absl::Status s = CheckUtf8(text); !s.ok()) return s;
  std::vector<int32_t> ids;
  if (absl::Status s = EncodeText(text, trusted, ids); !s.ok()) return s;
  return ids;
}

absl::Status ByteLevelTokenizer::EncodeText(absl::string_view text,
                                            absl::Span<const TextRange> trusted,
                                            std::vector<int32_t>& ids) const {
  for (const AddedTokenMatcher::Piece& piece : raw_tokens_.Split(text, trusted)) {
    if (piece.id >= 0) {
      ids.push_back(piece.id);
      continue;
    }
    // Each part is normalized by itself, so that it is known where in the result the trusted ones are.
    const size_t begin = piece.text.data() - text.data(), end = begin + piece.text.size();
    while (!trusted.empty() && trusted.front().end <= begin) trusted.remove_prefix(1);
    std::string normalized;
    std::vector<TextRange> normalized_trusted;
    size_t at = begin;
    for (const TextRange& range : trusted) {
      const size_t from = std::max(range.begin, begin), to = std::min(range.end, end);
      if (from >= to) break;
      normalized += Normalize(text.substr(at, from - at));
      const size_t start = normalized.size();
      normalized += Normalize(text.substr(from, to - from));
      normalized_trusted.push_back({start, normalized.size()});
      at = to;
    }
    normalized += Normalize(text.substr(at, end - at));
    for (const AddedTokenMatcher::Piece& part :
         normalized_tokens_.Split(normalized, normalized_trusted)) {
      if (part.id >= 0) {
        ids.push_back(part.id);
      } else if (absl::Status s = EncodeSegment(part.text, ids); !s.ok()) {
        return s;
      }
    }
  }
  return absl::OkStatus();
}

std::string ByteLevelTokenizer::Normalize(absl::string_view text) const {
  if (!nfc_) return std::string(text);
  utf8proc_uint8_t* composed = nullptr;
  const utf8proc_ssize_t n =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), text.size(), &composed,
                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  std::string result =
      n >= 0 ? std::string(reinterpret_cast<char*>(composed), n) : std::string(text);
  std::free(composed);
  return result;
}

absl::Status ByteLevelTokenizer::EncodeSegment(absl::string_view segment,
                                               std::vector<int32_t>& ids) const {
  absl::StatusOr<std::vector<std::string>> words = pre_tokenizer_.Split(segment);
  if (!words.ok()) return words.status();
  for (const std::string& word : *words) EncodeWord(word, ids);
  return absl::OkStatus();
}

void ByteLevelTokenizer::EncodeWord(absl::string_view word, std::vector<int32_t>& ids) const {
  if (ignore_merges_) {
    std::string spelling;
    for (const char c : word) spelling += byte_spelling_[static_cast<uint8_t>(c)];
    const auto it = vocabulary_.find(spelling);
    if (it != vocabulary_.end()) {
      ids.push_back(it->second);
      return;
    }
  }
  std::vector<int32_t> symbols;
  symbols.reserve(word.size());
  for (const char c : word) {
    const int32_t id = byte_id_[static_cast<uint8_t>(c)];
    if (id >= 0) symbols.push_back(id);
  }
  merges_.Apply(symbols);
  ids.insert(ids.end(), symbols.begin(), symbols.end());
}

absl::StatusOr<std::string> ByteLevelTokenizer::Decode(absl::Span<const int32_t> ids,
                                                       bool skip_special_tokens) const {
  std::string bytes;
  for (int32_t id : ids) {
    if (id < 0 || id >= vocab_size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("token id ", id, " is not in [0, ", vocab_size(), ")"));
    }
    if (!skip_special_tokens || !IsSpecial(id)) bytes += TokenBytes(id, false);
  }
  std::string text;
  AppendReplacement(DecodeUtf8(bytes, false, text), false, text);
  return text;
}

std::string ByteLevelTokenizer::TokenBytes(int32_t id, bool /*first*/) const {
  const std::string spelling = TokenString(id);
  std::string bytes;
  for (absl::string_view rest = spelling; !rest.empty();) {
    const Utf8Part part = NextUtf8(rest);
    const auto it = spelled_byte_.find(part.code_point);
    if (it == spelled_byte_.end()) return spelling;  // an added token with characters of its own
    bytes += static_cast<char>(it->second);
    rest.remove_prefix(part.length);
  }
  return bytes;
}

std::string ByteLevelTokenizer::TokenString(int32_t id) const {
  return id >= 0 && id < vocab_size() ? spellings_[id] : "";
}

bool ByteLevelTokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && id < vocab_size() && special_[id];
}

}  // namespace tauserve
