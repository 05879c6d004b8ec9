#include "server/model/tokenizer/sentencepiece_tokenizer.h"

#include <algorithm>
#include <cstdlib>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "server/model/tokenizer/added_tokens.h"
#include "server/model/tokenizer/sentencepiece_model.h"
#include "server/model/tokenizer/utf8.h"

namespace tauserve {
namespace {

constexpr char kSpace[] = "\xe2\x96\x81";  // U+2581
// No model has a piece with it, so that nothing is merged across it.
constexpr char kBoundary[] = "\x01";

class SentencePieceTokenizer : public Tokenizer {
 public:
  SentencePieceTokenizer(std::unique_ptr<SentencePieceModel> model,
                         const SentencePieceOptions& options)
      : model_(std::move(model)), options_(options) {
    for (int32_t id = 0; id < vocab_size(); id++) {
      if (!IsSpecial(id)) continue;
      AddedToken token;
      token.id = id;
      token.content = model_->PieceOf(id);
      token.special = true;
      control_.Add(token);
    }
    if (options.prefix_at_start_only && !model_->Encode(kBoundary, boundary_).ok()) {
      boundary_.clear();
    }
  }

  int32_t vocab_size() const override { return model_->size(); }

  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                              bool add_special_tokens) const override {
    if (absl::Status s = CheckUtf8(text); !s.ok()) return s;
    std::vector<int32_t> ids;
    if (add_special_tokens && options_.add_bos && model_->bos_id() >= 0) {
      ids.push_back(model_->bos_id());
    }
    if (absl::Status s = EncodeSegments(control_.Split(text), ids); !s.ok()) return s;
    if (add_special_tokens && options_.add_eos && model_->eos_id() >= 0) {
      ids.push_back(model_->eos_id());
    }
    return ids;
  }

  absl::StatusOr<std::vector<int32_t>> EncodePieces(
      absl::Span<const TextPiece> pieces) const override {
    std::vector<TextRange> trusted;
    const std::string text = Concatenate(pieces, trusted);
    if (absl::Status s = CheckUtf8(text); !s.ok()) return s;
    std::vector<int32_t> ids;
    if (absl::Status s = EncodeSegments(control_.Split(text, trusted), ids); !s.ok()) return s;
    return ids;
  }

  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids,
                                     bool skip_special_tokens) const override {
    std::string text;
    StreamingDecoder decoder(this, skip_special_tokens);
    for (int32_t id : ids) {
      if (id < 0 || id >= vocab_size()) {
        return absl::InvalidArgumentError(
            absl::StrCat("token id ", id, " is not in [0, ", vocab_size(), ")"));
      }
      text += decoder.Append(id);
    }
    return text + decoder.Flush();
  }

  std::string TokenBytes(int32_t id, bool first) const override {
    if (id < 0 || id >= vocab_size()) return "";
    using Kind = SentencePieceModel::Kind;
    const std::string& piece = model_->PieceOf(id);
    const Kind kind = model_->KindOf(id);
    if (kind == Kind::kByte) {  // "<0x0A>"
      return std::string(1, static_cast<char>(std::strtol(piece.c_str() + 3, nullptr, 16)));
    }
    if (kind == Kind::kUnknown) return " \xe2\x81\x87 ";  // U+2047, as the library shows it
    std::string bytes = absl::StrReplaceAll(piece, {{kSpace, " "}});
    if (first && model_->leading_spaces() < 2 && absl::StartsWith(bytes, " ")) bytes.erase(0, 1);
    return bytes;
  }

  std::string TokenString(int32_t id) const override {
    return id >= 0 && id < vocab_size() ? model_->PieceOf(id) : "";
  }
  bool replaces_each_byte() const override { return true; }
  bool drops_all_leading_space() const override { return model_->leading_spaces() == 0; }
  bool IsSpecial(int32_t id) const override {
    return id >= 0 && id < vocab_size() && model_->KindOf(id) == SentencePieceModel::Kind::kControl;
  }

 private:
  absl::Status EncodeSegments(const std::vector<AddedTokenMatcher::Piece>& segments,
                              std::vector<int32_t>& ids) const {
    bool at_start = true;
    for (const AddedTokenMatcher::Piece& segment : segments) {
      if (segment.id >= 0) {
        ids.push_back(segment.id);
      } else if (absl::Status s = EncodeSegment(segment.text, at_start, ids); !s.ok()) {
        return s;
      }
      at_start = false;
    }
    return absl::OkStatus();
  }

  absl::Status EncodeSegment(absl::string_view text, bool at_start,
                             std::vector<int32_t>& ids) const {
    if (at_start || boundary_.empty()) return model_->Encode(text, ids);
    // The model puts its space before the boundary, and both are dropped.
    std::vector<int32_t> with_boundary;
    if (absl::Status s = model_->Encode(absl::StrCat(kBoundary, text), with_boundary); !s.ok()) {
      return s;
    }
    if (!std::equal(boundary_.begin(), boundary_.end(), with_boundary.begin(),
                    with_boundary.begin() + std::min(boundary_.size(), with_boundary.size()))) {
      return model_->Encode(text, ids);
    }
    ids.insert(ids.end(), with_boundary.begin() + boundary_.size(), with_boundary.end());
    return absl::OkStatus();
  }

  std::unique_ptr<SentencePieceModel> model_;
  SentencePieceOptions options_;
  AddedTokenMatcher control_;
  std::vector<int32_t> boundary_;  // the tokens of kBoundary, if options_.prefix_at_start_only
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadSentencePiece(const std::string& file,
                                                             const SentencePieceOptions& options) {
  absl::StatusOr<std::unique_ptr<SentencePieceModel>> model = SentencePieceModel::Load(file);
  if (!model.ok()) return model.status();
  return std::make_unique<SentencePieceTokenizer>(*std::move(model), options);
}

}  // namespace tauserve
