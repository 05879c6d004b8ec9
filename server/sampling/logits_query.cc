#include "server/sampling/logits_query.h"

#include <algorithm>

namespace tauserve {
namespace {

bool ChangesLogits(const SamplingParams& p) {
  return !p.logit_bias.empty() || p.repetition_penalty != 1 || p.presence_penalty != 0 ||
         p.frequency_penalty != 0;
}

// Then a token that was not among the largest can't become one.
bool OnlyLowersLogits(const SamplingParams& p) {
  return p.repetition_penalty >= 1 && p.presence_penalty >= 0 && p.frequency_penalty >= 0 &&
         std::all_of(p.logit_bias.begin(), p.logit_bias.end(),
                     [](const auto& token_and_bias) { return token_and_bias.second <= 0; });
}

// Of what a row of logits is summed up for: top_p is a part of the sum over all tokens, unless top_k chooses first.
bool NeedsSum(const SamplingParams& p) { return !p.greedy() && p.top_k == 0 && p.top_p < 1; }

}  // namespace

bool NeedsWholeRow(const SamplingParams& p) {
  if (p.constraint != nullptr || !p.allowed_token_ids.empty() || !OnlyLowersLogits(p)) return true;
  if (p.greedy()) return false;
  if (p.top_k > 0) return p.top_k > kMaxTopLogits;
  if (p.typical_p < 1) return true;
  if (NeedsSum(p)) return ChangesLogits(p);  // the device's sum is that of unchanged logits
  return p.min_p == 0;                       // every token can be drawn
}

LogitsQuery QueryFor(const SamplingParams& params, const OutputParams& output) {
  LogitsQuery query;
  query.whole = NeedsWholeRow(params);
  query.temperature = NeedsSum(params) ? params.temperature : 0;
  query.unit_sum = output.top_logprobs.has_value();
  return query;
}

LogitsQuery PromptLogprobsQuery() {
  LogitsQuery query;
  query.whole = false;
  query.unit_sum = true;
  return query;
}

}  // namespace tauserve
