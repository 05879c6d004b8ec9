// UTF-8: validation, and decoding of byte streams with U+FFFD for what is not a character (one for each maximal part, as
// the Unicode standard recommends and Python's errors="replace" does).
#ifndef TAUSERVE_SERVER_MODEL_TOKENIZER_UTF8_H_
#define TAUSERVE_SERVER_MODEL_TOKENIZER_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace tauserve {

// What stands at the start of `bytes`, which is not empty.
struct Utf8Part {
  enum class Kind { kCharacter, kIncomplete, kInvalid };
  Kind kind;
  size_t length;        // of the character, of its beginning, or of the invalid part
  uint32_t code_point;  // kCharacter
};
Utf8Part NextUtf8(absl::string_view bytes);

// Offset of the first byte that is not part of a character, or npos.
size_t FindInvalidUtf8(absl::string_view bytes);

// InvalidArgument with the offset where `text` is not valid.
absl::Status CheckUtf8(absl::string_view text);

// Appends the decoded text of `bytes` to `text` and returns what is left over at the end, an incomplete character.
// `each_byte`: a U+FFFD for each byte of an invalid part.
std::string DecodeUtf8(absl::string_view bytes, bool each_byte, std::string& text);

// Appends what stands for `bytes` that are no character.
void AppendReplacement(absl::string_view bytes, bool each_byte, std::string& text);

void AppendUtf8(uint32_t code_point, std::string& text);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_MODEL_TOKENIZER_UTF8_H_
