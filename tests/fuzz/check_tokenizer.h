// What every tokenizer promises of every text.
#ifndef TAUSERVE_TESTS_FUZZ_CHECK_TOKENIZER_H_
#define TAUSERVE_TESTS_FUZZ_CHECK_TOKENIZER_H_

#include <string>

#include "absl/strings/string_view.h"
#include "kernels/check.h"
#include "server/model/tokenizer/tokenizer.h"
#include "server/model/tokenizer/utf8.h"

namespace tauserve {

inline void CheckTokenizer(const Tokenizer& tokenizer, absl::string_view text) {
  const auto ids = tokenizer.Encode(text, true);
  if (!CheckUtf8(text).ok()) {
    TAUSERVE_CHECK(absl::IsInvalidArgument(ids.status()), "text that is not UTF-8 is refused");
    return;
  }
  if (!ids.ok()) return;  // a pattern of the file may be too hard for a text
  for (const int32_t id : *ids) {
    TAUSERVE_CHECK(id >= 0 && id < tokenizer.vocab_size(), "an id outside the vocabulary");
  }
  for (const bool skip : {false, true}) {
    const auto decoded = tokenizer.Decode(*ids, skip);
    TAUSERVE_CHECK(decoded.ok() && CheckUtf8(*decoded).ok(), "tokens decode to UTF-8");
    StreamingDecoder decoder(&tokenizer, skip);
    std::string streamed;
    for (const int32_t id : *ids) {
      const std::string piece = decoder.Append(id);
      TAUSERVE_CHECK(CheckUtf8(piece).ok(), "no piece splits a character");
      streamed += piece;
    }
    streamed += decoder.Flush();
    TAUSERVE_CHECK(streamed == *decoded, "what is streamed is what is decoded");
  }
}

}  // namespace tauserve

#endif  // TAUSERVE_TESTS_FUZZ_CHECK_TOKENIZER_H_
