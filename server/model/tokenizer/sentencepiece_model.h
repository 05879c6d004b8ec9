// A SentencePiece model, run by the sentencepiece library. Debian's library exports a copy of Protocol Buffers of
// another version than gRPC's, and the two would mix their functions up in one process; so it is loaded, when a model
// needs it, into a link namespace of its own (dlmopen). Calls are serialised. Thread-safe.
#ifndef TAUSERVE_SERVER_MODEL_TOKENIZER_SENTENCEPIECE_MODEL_H_
#define TAUSERVE_SERVER_MODEL_TOKENIZER_SENTENCEPIECE_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/model/tokenizer/sentencepiece_plugin.h"

namespace tauserve {

class SentencePieceModel {
 public:
  // InvalidArgument for a file that is no such model; FailedPrecondition if the library can't be loaded.
  static absl::StatusOr<std::unique_ptr<SentencePieceModel>> Load(const std::string& file);
  ~SentencePieceModel();
  SentencePieceModel(const SentencePieceModel&) = delete;
  SentencePieceModel& operator=(const SentencePieceModel&) = delete;

  enum class Kind { kNormal, kControl, kByte, kUnknown };
  int32_t size() const { return static_cast<int32_t>(pieces_.size()); }
  int32_t bos_id() const { return bos_id_; }  // -1: none
  int32_t eos_id() const { return eos_id_; }
  // Of two spaces at the start of a text, how many decoding leaves: 0, 1 or 2.
  int leading_spaces() const { return leading_spaces_; }
  Kind KindOf(int32_t id) const { return kinds_[id]; }
  const std::string& PieceOf(int32_t id) const { return pieces_[id]; }
  absl::Status Encode(absl::string_view text, std::vector<int32_t>& ids) const;  // appends

 private:
  SentencePieceModel(const TauserveSentencePieceApi* api, void* model);

  const TauserveSentencePieceApi* const api_;
  void* const model_;
  int32_t bos_id_;
  int32_t eos_id_;
  int leading_spaces_;
  std::vector<std::string> pieces_;
  std::vector<Kind> kinds_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_MODEL_TOKENIZER_SENTENCEPIECE_MODEL_H_
