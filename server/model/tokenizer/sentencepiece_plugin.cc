#include "server/model/tokenizer/sentencepiece_plugin.h"

#include <sentencepiece_processor.h>

#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

namespace {

struct Model {
  sentencepiece::SentencePieceProcessor processor;
  std::vector<int> ids;
};

Model& Of(void* model) { return *static_cast<Model*>(model); }

void* Load(const char* file, char* error, size_t error_size) {
  auto* model = new Model;
  const auto status = model->processor.Load(file);
  if (status.ok()) return model;
  std::snprintf(error, error_size, "%s", status.ToString().c_str());
  delete model;
  return nullptr;
}

void Unload(void* model) { delete static_cast<Model*>(model); }
int Size(void* model) { return Of(model).processor.GetPieceSize(); }
int BosId(void* model) { return Of(model).processor.bos_id(); }
int EosId(void* model) { return Of(model).processor.eos_id(); }

int LeadingSpaces(void* model) {
  const std::vector<std::string> pieces = {"\xe2\x96\x81", "\xe2\x96\x81", "a"};
  std::string text;
  if (!Of(model).processor.Decode(pieces, &text).ok()) return 0;
  return static_cast<int>(text.find_first_not_of(' '));
}

int Kind(void* model, int id) {
  const auto& processor = Of(model).processor;
  return processor.IsControl(id) ? 1 : processor.IsByte(id) ? 2 : processor.IsUnknown(id) ? 3 : 0;
}

const char* Piece(void* model, int id, size_t* length) {
  const std::string& piece = Of(model).processor.IdToPiece(id);
  *length = piece.size();
  return piece.data();
}

const int* Encode(void* model, const char* text, size_t length, size_t* count) {
  std::vector<int>& ids = Of(model).ids;
  ids.clear();
  if (!Of(model).processor.Encode(std::string_view(text, length), &ids).ok()) return nullptr;
  *count = ids.size();
  ids.reserve(1);  // a text without tokens has an array too
  return ids.data();
}

constexpr TauserveSentencePieceApi kApi = {Load,          Unload, Size,  BosId, EosId,
                                           LeadingSpaces, Kind,   Piece, Encode};

}  // namespace

const TauserveSentencePieceApi* tauserve_sentencepiece_api() { return &kApi; }
