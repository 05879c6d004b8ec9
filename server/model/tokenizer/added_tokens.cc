#include "server/model/tokenizer/added_tokens.h"

#include <utf8proc.h>

#include "absl/strings/match.h"
#include "server/model/tokenizer/utf8.h"

namespace tauserve {
namespace {

bool IsSpace(uint32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

bool IsWord(uint32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

// Start of the character that ends at `end`.
size_t PreviousStart(absl::string_view text, size_t end) {
  size_t at = end - 1;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xc0) == 0x80) at--;
  return at;
}

bool WordBefore(absl::string_view text, size_t at) {
  return at > 0 && IsWord(NextUtf8(text.substr(PreviousStart(text, at))).code_point);
}
bool WordAt(absl::string_view text, size_t at) {
  return at < text.size() && IsWord(NextUtf8(text.substr(at)).code_point);
}

}  // namespace

const AddedToken* AddedTokenMatcher::LongestAt(absl::string_view text, size_t at,
                                               size_t control_end) const {
  const auto it = by_first_byte_.find(text[at]);
  if (it == by_first_byte_.end()) return nullptr;
  const AddedToken* best = nullptr;
  for (const AddedToken& token : it->second) {
    if (best != nullptr && token.content.size() <= best->content.size()) continue;
    if (at + token.content.size() > control_end && token.IsControl()) continue;
    if (absl::StartsWith(text.substr(at), token.content)) best = &token;
  }
  return best;
}

std::vector<AddedTokenMatcher::Piece> AddedTokenMatcher::Split(absl::string_view text) const {
  const TextRange all{0, text.size()};
  return Split(text, absl::MakeConstSpan(&all, 1));
}

std::vector<AddedTokenMatcher::Piece> AddedTokenMatcher::Split(
    absl::string_view text, absl::Span<const TextRange> trusted) const {
  std::vector<Piece> pieces;
  size_t begin = 0;  // of the text since the last token
  for (size_t at = 0; at < text.size();) {
    while (!trusted.empty() && trusted.front().end <= at) trusted.remove_prefix(1);
    const bool inside = !trusted.empty() && trusted.front().begin <= at;
    const AddedToken* token = LongestAt(text, at, inside ? trusted.front().end : 0);
    if (token == nullptr) {
      at++;
      continue;
    }
    size_t from = at, to = at + token->content.size();
    at = to;
    if (token->single_word && (WordBefore(text, from) || WordAt(text, to))) continue;
    if (token->lstrip) {
      while (from > begin) {
        const size_t previous = PreviousStart(text, from);
        if (!IsSpace(NextUtf8(text.substr(previous)).code_point)) break;
        from = previous;
      }
    }
    if (token->rstrip) {
      while (to < text.size()) {
        const Utf8Part part = NextUtf8(text.substr(to));
        if (!IsSpace(part.code_point)) break;
        to += part.length;
      }
    }
    if (from > begin) pieces.push_back({text.substr(begin, from - begin), -1});
    pieces.push_back({text.substr(from, to - from), token->id});
    begin = at = to;
  }
  if (begin < text.size()) pieces.push_back({text.substr(begin), -1});
  return pieces;
}

std::string Concatenate(absl::Span<const TextPiece> pieces, std::vector<TextRange>& trusted) {
  std::string text;
  for (const TextPiece& piece : pieces) {
    const size_t begin = text.size();
    text += piece.text;
    if (!piece.trusted || piece.text.empty()) continue;
    if (!trusted.empty() && trusted.back().end == begin) {
      trusted.back().end = text.size();
    } else {
      trusted.push_back({begin, text.size()});
    }
  }
  return text;
}

}  // namespace tauserve
