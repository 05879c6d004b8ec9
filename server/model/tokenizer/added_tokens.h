// Tokens that are found in the text as they are spelled, before anything else looks at it: special tokens, and words
// added to a vocabulary. Hugging Face's rules: the leftmost match wins, of those the longest.
#ifndef TAUSERVE_SERVER_MODEL_TOKENIZER_ADDED_TOKENS_H_
#define TAUSERVE_SERVER_MODEL_TOKENIZER_ADDED_TOKENS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/model/tokenizer/tokenizer.h"

namespace tauserve {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;
  bool single_word = false;  // only where no word character is next to it
  bool lstrip = false;       // takes the whitespace before it
  bool rstrip = false;       // takes the whitespace behind it
  bool normalized = false;   // found in normalized text

  // What the text of strangers must not become: a special token, or one spelled like a tag. Qwen, for one, adds
  // <tool_response> and <|fim_prefix|> as ordinary words.
  bool IsControl() const {
    return special || (content.size() > 2 && content.front() == '<' && content.back() == '>');
  }
};

// Bytes [begin, end) of a text.
struct TextRange {
  size_t begin = 0;
  size_t end = 0;
};

class AddedTokenMatcher {
 public:
  void Add(const AddedToken& token) {
    if (!token.content.empty()) by_first_byte_[token.content[0]].push_back(token);
  }

  struct Piece {
    absl::string_view text;
    int32_t id;  // of a token, or -1 for text between tokens
  };
  std::vector<Piece> Split(absl::string_view text) const;
  // Finds control tokens only inside of one of `trusted`, which are in order and apart.
  std::vector<Piece> Split(absl::string_view text, absl::Span<const TextRange> trusted) const;

 private:
  // `control_end`: where a control token must end at the latest.
  const AddedToken* LongestAt(absl::string_view text, size_t at, size_t control_end) const;
  absl::flat_hash_map<char, std::vector<AddedToken>> by_first_byte_;
};

// The pieces' texts as one, and where in it the trusted ones are.
std::string Concatenate(absl::Span<const TextPiece> pieces, std::vector<TextRange>& trusted);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_MODEL_TOKENIZER_ADDED_TOKENS_H_
