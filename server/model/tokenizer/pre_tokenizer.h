// Cuts text into the words that byte-pair encoding works on, by the rules of a tokenizer.json's `pre_tokenizer`.
#ifndef TAUSERVE_SERVER_MODEL_TOKENIZER_PRE_TOKENIZER_H_
#define TAUSERVE_SERVER_MODEL_TOKENIZER_PRE_TOKENIZER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json_fwd.hpp"

namespace tauserve {

// A regular expression in the dialect of tokenizer files, on Unicode text.
class SplitPattern {
 public:
  // `literal`: it stands for itself.
  static absl::StatusOr<SplitPattern> Compile(const std::string& pattern, bool literal);
  // Calls found(begin, end) for each match from left to right; empty matches are passed over.
  template <typename Found>
  absl::Status ForEach(absl::string_view text, const Found& found) const;

 private:
  friend class PreTokenizer;
  struct Code;
  std::shared_ptr<const Code> code_;
};

class PreTokenizer {
 public:
  // Null means that a segment is one word. Unimplemented, with its name, for a kind that is not supported.
  static absl::StatusOr<PreTokenizer> FromJson(const nlohmann::json& json);

  // Words of one segment. Internal if a pattern exceeds its limits on this text.
  absl::StatusOr<std::vector<std::string>> Split(absl::string_view segment) const;

 private:
  enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };
  struct Stage {
    bool add_prefix_space = false;
    bool split = false;
    bool invert = false;
    Behavior behavior = Behavior::kIsolated;
    SplitPattern pattern;
  };
  static absl::Status AddStages(const nlohmann::json& json, std::vector<Stage>& stages);
  static absl::Status SplitWord(const Stage& stage, absl::string_view word,
                                std::vector<std::string>& words);

  std::vector<Stage> stages_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_MODEL_TOKENIZER_PRE_TOKENIZER_H_
