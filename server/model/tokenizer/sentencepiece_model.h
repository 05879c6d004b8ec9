// The sentencepiece library behind an interface of standard types: its header declares an absl::string_view of its own,
// so it and Abseil's headers can't be in one source file.
#ifndef TAUSERVE_SERVER_MODEL_TOKENIZER_SENTENCEPIECE_MODEL_H_
#define TAUSERVE_SERVER_MODEL_TOKENIZER_SENTENCEPIECE_MODEL_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tauserve {

class SentencePieceModel {
 public:
  // Null, and what is wrong in `error`, if the file can't be read.
  static std::unique_ptr<SentencePieceModel> Load(const std::string& file, std::string& error);
  ~SentencePieceModel();

  enum class Kind { kNormal, kControl, kByte, kUnknown };
  int size() const;
  int bos_id() const;  // -1: none
  int eos_id() const;
  Kind KindOf(int id) const;
  const std::string& PieceOf(int id) const;
  // Appends the ids of `text`; false, and why in `error`, if the library fails.
  bool Encode(std::string_view text, std::vector<int>& ids, std::string& error) const;

 private:
  struct Processor;
  explicit SentencePieceModel(std::unique_ptr<Processor> processor);
  std::unique_ptr<Processor> processor_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_MODEL_TOKENIZER_SENTENCEPIECE_MODEL_H_
