#include "server/engine/output_processor.h"

#include <algorithm>
#include <utility>

namespace tauserve {
namespace {

bool Contains(const std::vector<int32_t>& tokens, int32_t token) {
  return std::find(tokens.begin(), tokens.end(), token) != tokens.end();
}

}  // namespace

OutputProcessor::OutputProcessor(const Request& request, const ModelInfo& model,
                                 const Tokenizer* tokenizer)
    : request_(request),
      model_(model),
      decoder_(tokenizer, request.output.skip_special_tokens),
      stops_(request.stopping.stop_strings, request.stopping.include_stop_in_output),
      stop_tokens_(request.stopping.EndTokens(model.eos_token_ids)) {
  if (request.sampling.constraint != nullptr) matcher_.emplace(request.sampling.constraint);
}

absl::Status OutputProcessor::FillMask(absl::Span<uint64_t> mask) {
  if (absl::Status s = matcher_->FillMask(mask); !s.ok()) return s;
  for (int32_t token : stop_tokens_) {
    const uint64_t bit = uint64_t{1} << (token % 64);
    mask[token / 64] = matcher_->complete() ? mask[token / 64] | bit : mask[token / 64] & ~bit;
  }
  return absl::OkStatus();
}

std::optional<FinishReason> OutputProcessor::Append(int32_t token, int32_t new_tokens,
                                                    int32_t total_tokens,
                                                    std::optional<TokenLogprob> logprob,
                                                    Delta& delta) {
  const StoppingParams& stopping = request_.stopping;
  delta.tokens.push_back(token);
  if (logprob) delta.logprobs.push_back(*std::move(logprob));
  const bool stop = Contains(stop_tokens_, token);
  if (!stop || stopping.include_stop_in_output) {
    delta.text += stops_.Append(decoder_.Append(token), new_tokens >= stopping.min_new_tokens);
  }
  if (stop) {
    stop_token_ = token;
    return Contains(stopping.stop_token_ids, token) ? FinishReason::kStopToken
                                                    : FinishReason::kEosToken;
  }
  if (matcher_) matcher_->Accept(token);
  if (stops_.matched()) return FinishReason::kStopString;
  if (matcher_ && matcher_->final()) return FinishReason::kConstraintComplete;
  if (new_tokens >= stopping.max_new_tokens) return FinishReason::kMaxNewTokens;
  if (total_tokens >= model_.max_context_tokens) return FinishReason::kContextLimit;
  return std::nullopt;
}

std::string OutputProcessor::Flush() {
  if (stops_.matched()) return "";
  std::string text = stops_.Append(decoder_.Flush());
  return text + stops_.Flush();
}

}  // namespace tauserve
