// Any bytes as tokenizer.json: refused, or the tokenizer keeps its promises on a few texts.
#include <cstdint>

#include "tests/fuzz/check_tokenizer.h"
#include "tests/fuzz/memory_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const tauserve::MemoryFolder* const folder = new tauserve::MemoryFolder();
  folder->Write("tokenizer.json", tauserve::AsText(data, size));
  const auto tokenizer = tauserve::LoadTokenizer(folder->path());
  if (!tokenizer.ok()) return 0;
  for (const char* text : {"", "Once upon a time, it's 3 o'clock.\n\n  <|a|> ",
                           "e\xcc\x81 \xe4\xb8\xad\xf0\x9f\x98\x80"}) {
    tauserve::CheckTokenizer(**tokenizer, text);
  }
  for (const int32_t id : {-1, 0, (*tokenizer)->vocab_size() - 1, (*tokenizer)->vocab_size()}) {
    (*tokenizer)->TokenBytes(id, true);
    (*tokenizer)->TokenString(id);
    (*tokenizer)->IsSpecial(id);
  }
  return 0;
}
