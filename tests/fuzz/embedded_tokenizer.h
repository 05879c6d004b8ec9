// The embedded model's tokenizer, for targets that need some tokenizer.
#ifndef TAUSERVE_TESTS_FUZZ_EMBEDDED_TOKENIZER_H_
#define TAUSERVE_TESTS_FUZZ_EMBEDDED_TOKENIZER_H_

#include <memory>
#include <utility>

#include "kernels/check.h"
#include "server/model/tokenizer/tokenizer.h"

namespace tauserve {

inline constexpr char kEmbeddedModel[] = "models/recall-9m";

inline std::unique_ptr<Tokenizer> LoadEmbeddedTokenizer() {
  auto loaded = LoadTokenizer(kEmbeddedModel);
  TAUSERVE_CHECK(loaded.ok(), "the embedded model's tokenizer: run in the project's folder");
  return *std::move(loaded);
}

}  // namespace tauserve

#endif  // TAUSERVE_TESTS_FUZZ_EMBEDDED_TOKENIZER_H_
