// Runs sequences through a LanguageModel as the engine would: gives each sequence pages, in
// shuffled order so that nothing can rely on neighbouring pages, and builds the steps' inputs.
#ifndef TAUSERVE_TESTS_SERVER_MODEL_SEQUENCE_RUNNER_H_
#define TAUSERVE_TESTS_SERVER_MODEL_SEQUENCE_RUNNER_H_

#include <cstdint>
#include <map>
#include <vector>

#include "server/model/model.h"

namespace tauserve {

class SequenceRunner {
 public:
  struct Piece {
    int sequence = 0;  // any number; its first piece begins it
    std::vector<int32_t> tokens;
  };

  SequenceRunner(LanguageModel* model, uint64_t seed);

  // One step with the pieces' tokens behind what their sequences had. Logits [logit_rows,
  // vocab_size], or what `queries` ask for; valid until the next step.
  StepOutput Step(const std::vector<Piece>& pieces, const std::vector<int32_t>& logit_rows,
                  const std::vector<LogitsQuery>& queries = {});
  // A new sequence of `prompt` in steps of at most `chunk` tokens, then `count` greedy tokens.
  // `first_logits`, if not null, gets the logits behind the prompt. Its pages are free again
  // afterwards.
  std::vector<int32_t> Greedy(const std::vector<int32_t>& prompt, int count, int chunk,
                              std::vector<float>* first_logits);
  void Release(int sequence);

 private:
  struct Sequence {
    int length = 0;
    std::vector<PageId> pages;
  };

  LanguageModel* model_;
  std::vector<PageId> free_pages_;
  std::map<int, Sequence> sequences_;
};

}  // namespace tauserve

#endif  // TAUSERVE_TESTS_SERVER_MODEL_SEQUENCE_RUNNER_H_
