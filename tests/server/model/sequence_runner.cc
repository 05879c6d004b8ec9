#include "tests/server/model/sequence_runner.h"

#include <algorithm>
#include <random>

#include "kernels/check.h"

namespace tauserve {

SequenceRunner::SequenceRunner(LanguageModel* model, uint64_t seed) : model_(model) {
  for (PageId page = 0; page < model->num_pages(); ++page) free_pages_.push_back(page);
  std::shuffle(free_pages_.begin(), free_pages_.end(), std::mt19937_64(seed));
}

StepOutput SequenceRunner::Step(const std::vector<Piece>& pieces,
                                const std::vector<int32_t>& logit_rows,
                                const std::vector<LogitsQuery>& queries) {
  std::vector<int32_t> tokens;
  std::vector<SequenceSlice> slices;
  for (const Piece& piece : pieces) {
    Sequence& sequence = sequences_[piece.sequence];
    SequenceSlice slice;
    slice.first_row = tokens.size();
    slice.num_tokens = piece.tokens.size();
    slice.context_tokens = sequence.length;
    sequence.length += slice.num_tokens;
    while (static_cast<int>(sequence.pages.size()) * kPageTokens < sequence.length) {
      TAUSERVE_CHECK(!free_pages_.empty(), "too few pages for the test");
      sequence.pages.push_back(free_pages_.back());
      free_pages_.pop_back();
    }
    slice.pages = sequence.pages.data();
    tokens.insert(tokens.end(), piece.tokens.begin(), piece.tokens.end());
    slices.push_back(slice);
  }
  absl::StatusOr<StepOutput> output = model_->Run({tokens, slices, logit_rows, queries, {}});
  TAUSERVE_CHECK(output.ok(), std::string(output.status().message()).c_str());
  return *output;
}

std::vector<int32_t> SequenceRunner::Greedy(const std::vector<int32_t>& prompt, int count,
                                            int chunk, std::vector<float>* first_logits) {
  constexpr int kSequence = -1;
  const int size = prompt.size();
  absl::Span<const float> logits;
  for (int begin = 0; begin < size; begin += chunk) {
    const int end = std::min(begin + chunk, size);
    std::vector<int32_t> rows;
    if (end == size) rows = {end - begin - 1};
    logits = Step({{kSequence, {prompt.begin() + begin, prompt.begin() + end}}}, rows).logits;
  }
  if (first_logits != nullptr) first_logits->assign(logits.begin(), logits.end());
  std::vector<int32_t> tokens;
  while (static_cast<int>(tokens.size()) < count) {
    tokens.push_back(std::max_element(logits.begin(), logits.end()) - logits.begin());
    logits = Step({{kSequence, {tokens.back()}}}, {0}).logits;
  }
  Release(kSequence);
  return tokens;
}

void SequenceRunner::Release(int sequence) {
  const std::vector<PageId>& pages = sequences_[sequence].pages;
  free_pages_.insert(free_pages_.end(), pages.begin(), pages.end());
  sequences_.erase(sequence);
}

}  // namespace tauserve
