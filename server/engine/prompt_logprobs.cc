#include "server/engine/prompt_logprobs.h"

#include <optional>
#include <utility>

#include "server/sampling/logprobs.h"
#include "server/sampling/sampler.h"

namespace tauserve {

absl::StatusOr<absl::Status> ScorePrompt(LanguageModel& model, const StepOutput& output,
                                         const StepInputs::Rows& rows, Sequence& sequence,
                                         std::vector<TokenLogprob>* logprobs) {
  const std::vector<int32_t>& prompt = sequence.request().prompt;
  const int32_t top_n = *sequence.request().output.top_prompt_logprobs;
  if (sequence.scored() == 0) {  // nothing comes before it
    logprobs->emplace_back().token = prompt[0];
    sequence.set_scored(1);
  }
  const int64_t vocab = model.info().vocab_size;
  for (int64_t row = rows.first; row < rows.first + rows.of_prompt; row++) {
    const int32_t token = prompt[sequence.scored()];
    std::optional<TokenLogprob> logprob;
    absl::Span<const float> logits;
    if (output.top_logits.empty()) {
      logits = output.logits.subspan(row * vocab, vocab);
    } else {
      const TopLogits& top = output.top_logits[row];
      if (absl::Status unusable = CheckLogits(top); !unusable.ok()) return unusable;
      logprob = LogprobOf(top, token, top_n);
      if (!logprob) {  // a token that is far from the likely ones
        const absl::StatusOr<absl::Span<const float>> whole = model.WholeRow(row);
        if (!whole.ok()) return whole.status();
        logits = *whole;
      }
    }
    if (!logprob) {
      if (absl::Status unusable = CheckLogits(logits); !unusable.ok()) return unusable;
      logprob = LogprobOf(logits, token, top_n);
    }
    logprobs->push_back(*std::move(logprob));
    sequence.set_scored(sequence.scored() + 1);
  }
  return absl::OkStatus();
}

}  // namespace tauserve
