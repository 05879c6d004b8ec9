// Text <-> token ids, exactly as the model's own tokenizer files say: `tokenizer.json` (byte-level BPE) or
// `tokenizer.model` (SentencePiece). Immutable after loading; safe to use from any thread.
#ifndef TAUSERVE_SERVER_MODEL_TOKENIZER_TOKENIZER_H_
#define TAUSERVE_SERVER_MODEL_TOKENIZER_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace tauserve {

// A part of a text that comes from two sides.
struct TextPiece {
  std::string text;
  bool trusted = false;  // ours: control tokens spelled in it are recognised
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Ids are below this. May be smaller than the model's padded vocabulary.
  virtual int32_t vocab_size() const = 0;

  // `text` must be valid UTF-8 (InvalidArgument with the byte offset otherwise). Special tokens spelled out in the text
  // are recognised; `add_special_tokens` adds what the post-processor puts around the text (a <bos>, say).
  virtual absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                                      bool add_special_tokens) const = 0;

  // The tokens of the pieces' concatenation, without what the post-processor adds. Control tokens (special ones, and
  // added ones spelled like a tag) are recognised only where a trusted piece has all of their text; elsewhere their
  // spelling is text like any other. A SentencePiece model's user-defined symbols are recognised everywhere.
  virtual absl::StatusOr<std::vector<int32_t>> EncodePieces(
      absl::Span<const TextPiece> pieces) const = 0;

  // InvalidArgument for an id outside [0, vocab_size). Bytes that are not valid UTF-8 become U+FFFD.
  virtual absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids,
                                             bool skip_special_tokens) const = 0;

  // The bytes that `id` adds to decoded text, which may be part of a character. `first` tells that no text was decoded
  // before it (SentencePiece drops the leading space there). Ids outside the vocabulary add nothing.
  virtual std::string TokenBytes(int32_t id, bool first) const = 0;

  // The vocabulary's own spelling of `id`, such as "Ġthe" or "▁the"; empty for an unused id.
  virtual std::string TokenString(int32_t id) const = 0;

  virtual bool IsSpecial(int32_t id) const = 0;

  // Bytes that are not a character: U+FFFD for each of them (SentencePiece), or one for each maximal part (the others).
  virtual bool replaces_each_byte() const { return false; }
  // Whether all tokens that are only a leading space are dropped until there is text (SentencePiece, as the model says),
  // not just the first one.
  virtual bool drops_all_leading_space() const { return false; }
};

// Reads the tokenizer of a model folder: tokenizer.json if there, else tokenizer.model; also tokenizer.model where
// tokenizer.json is of a kind that is not supported and adds no tokens to it. Errors name the file and what is wrong with
// it: NotFound, InvalidArgument (malformed), Unimplemented (a kind that is not supported, named).
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& model_dir);

// Turns a stream of ids into text without ever splitting a UTF-8 character: bytes that may still become one are held
// back, bytes that can't are replaced by U+FFFD. The concatenation of all Append results and of Flush equals Decode of
// all ids.
class StreamingDecoder {
 public:
  StreamingDecoder(const Tokenizer* tokenizer, bool skip_special_tokens)
      : tokenizer_(tokenizer), skip_special_tokens_(skip_special_tokens) {}

  std::string Append(int32_t id);
  std::string Flush();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_tokens_;
  bool first_ = true;
  std::string pending_;  // an incomplete character
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_MODEL_TOKENIZER_TOKENIZER_H_
