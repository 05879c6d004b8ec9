#include "server/model/tokenizer/tokenizer.h"
#include "server/model/tokenizer/utf8.h"

namespace tauserve {

std::string StreamingDecoder::Append(int32_t id) {
  std::string text;
  if (skip_special_tokens_ && tokenizer_->IsSpecial(id)) {
    // SentencePiece ends a run of bytes there; byte-level BPE joins what stands around it.
    return tokenizer_->replaces_each_byte() ? Flush() : text;
  }
  const std::string bytes = tokenizer_->TokenBytes(id, first_);
  first_ = first_ && bytes.empty() &&
           (tokenizer_->drops_all_leading_space() || tokenizer_->TokenBytes(id, false).empty());
  pending_ = DecodeUtf8(pending_ + bytes, tokenizer_->replaces_each_byte(), text);
  return text;
}

std::string StreamingDecoder::Flush() {
  std::string text;
  AppendReplacement(pending_, tokenizer_->replaces_each_byte(), text);
  pending_.clear();
  return text;
}

}  // namespace tauserve
