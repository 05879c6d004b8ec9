#include "server/model/tokenizer/sentencepiece_model.h"

#include <sentencepiece_processor.h>

#include <utility>

namespace tauserve {

struct SentencePieceModel::Processor {
  sentencepiece::SentencePieceProcessor library;
};

SentencePieceModel::SentencePieceModel(std::unique_ptr<Processor> processor)
    : processor_(std::move(processor)) {}
SentencePieceModel::~SentencePieceModel() = default;

std::unique_ptr<SentencePieceModel> SentencePieceModel::Load(const std::string& file,
                                                             std::string& error) {
  auto processor = std::make_unique<Processor>();
  const auto status = processor->library.Load(file);
  if (!status.ok()) {
    error = status.ToString();
    return nullptr;
  }
  return std::unique_ptr<SentencePieceModel>(new SentencePieceModel(std::move(processor)));
}

int SentencePieceModel::size() const { return processor_->library.GetPieceSize(); }
int SentencePieceModel::bos_id() const { return processor_->library.bos_id(); }
int SentencePieceModel::eos_id() const { return processor_->library.eos_id(); }

SentencePieceModel::Kind SentencePieceModel::KindOf(int id) const {
  if (processor_->library.IsControl(id)) return Kind::kControl;
  if (processor_->library.IsByte(id)) return Kind::kByte;
  if (processor_->library.IsUnknown(id)) return Kind::kUnknown;
  return Kind::kNormal;
}

const std::string& SentencePieceModel::PieceOf(int id) const {
  return processor_->library.IdToPiece(id);
}

bool SentencePieceModel::Encode(std::string_view text, std::vector<int>& ids,
                                std::string& error) const {
  std::vector<int> part;
  const auto status = processor_->library.Encode(text, &part);
  if (!status.ok()) {
    error = status.ToString();
    return false;
  }
  ids.insert(ids.end(), part.begin(), part.end());
  return true;
}

}  // namespace tauserve
