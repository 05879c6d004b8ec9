#include "server/model/tokenizer/tokenizer.h"
#include "server/model/tokenizer/utf8.h"

namespace tauserve {

std::string StreamingDecoder::Append(int32_t id) {
  std::string text;
  if (skip_special_tokens_ && tokenizer_->IsSpecial(id)) return text;
  pending_ = DecodeUtf8(pending_ + tokenizer_->TokenBytes(id, first_), text);
  first_ = false;
  return text;
}

std::string StreamingDecoder::Flush() {
  if (pending_.empty()) return "";
  pending_.clear();
  return std::string(kReplacementCharacter);
}

}  // namespace tauserve
