// A tokenizer.model by the sentencepiece library (Llama 2, Mistral, Gemma and their like).
#ifndef TAUSERVE_SERVER_MODEL_TOKENIZER_SENTENCEPIECE_TOKENIZER_H_
#define TAUSERVE_SERVER_MODEL_TOKENIZER_SENTENCEPIECE_TOKENIZER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/model/tokenizer/tokenizer.h"

namespace tauserve {

struct SentencePieceOptions {
  bool add_bos = true;
  bool add_eos = false;
  // Of a model that puts a space before a text: only at the text's start, not behind each control token as well.
  bool prefix_at_start_only = false;
};

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadSentencePiece(const std::string& file,
                                                             const SentencePieceOptions& options);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_MODEL_TOKENIZER_SENTENCEPIECE_TOKENIZER_H_
