// What the sentencepiece plugin exports: a C interface, since plugin and process share no C++ runtime. Strings are
// pointer and length; those returned live as long as the model.
#ifndef TAUSERVE_SERVER_MODEL_TOKENIZER_SENTENCEPIECE_PLUGIN_H_
#define TAUSERVE_SERVER_MODEL_TOKENIZER_SENTENCEPIECE_PLUGIN_H_

#include <cstddef>

extern "C" {

struct TauserveSentencePieceApi {
  // Null if the file can't be read; then `error`, a buffer of `error_size` bytes, says why.
  void* (*load)(const char* file, char* error, size_t error_size);
  void (*unload)(void* model);
  int (*size)(void* model);
  int (*bos_id)(void* model);  // -1: none
  int (*eos_id)(void* model);
  int (*leading_spaces)(void* model);  // of two at the start of a text, how many decoding leaves
  int (*kind)(void* model, int id);    // 0 normal, 1 control, 2 byte, 3 unknown
  const char* (*piece)(void* model, int id, size_t* length);
  // Ids of a text; the array lives until the model's next encode. Null if the library fails.
  const int* (*encode)(void* model, const char* text, size_t length, size_t* count);
};

const TauserveSentencePieceApi* tauserve_sentencepiece_api();
}

#endif  // TAUSERVE_SERVER_MODEL_TOKENIZER_SENTENCEPIECE_PLUGIN_H_
