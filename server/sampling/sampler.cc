#include "server/sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tauserve {
namespace {

constexpr float kForbidden = -std::numeric_limits<float>::infinity();

// The most probable first; equal ones by id.
bool Before(float logit_a, int32_t a, float logit_b, int32_t b) {
  return logit_a > logit_b || (logit_a == logit_b && a < b);
}

}  // namespace

Sampler::Sampler(int32_t vocab_size) : logits_(vocab_size), counts_(vocab_size, 0) {
  choices_.reserve(vocab_size);
}

absl::StatusOr<int32_t> Sampler::Sample(const SamplingParams& params, const SampleInput& input) {
  Adjust(params, input);
  int32_t best = -1;
  for (size_t t = 0; t < input.logits.size(); t++) {
    const float logit = logits_[t];
    if (std::isnan(logit) || logit == std::numeric_limits<float>::infinity()) {
      return absl::InternalError(absl::StrCat("logit of token ", t, " is ", logit));
    }
    if (logit != kForbidden && (best < 0 || logit > logits_[best])) best = static_cast<int32_t>(t);
  }
  if (best < 0) return absl::InternalError("no token has a finite logit");
  if (params.greedy()) return best;
  return Draw(params, input.output.size());
}

void Sampler::Adjust(const SamplingParams& params, const SampleInput& input) {
  std::copy(input.logits.begin(), input.logits.end(), logits_.begin());
  for (const auto& [token, bias] : params.logit_bias) logits_[token] += bias;
  if (!params.allowed_token_ids.empty()) {
    for (int32_t token : params.allowed_token_ids) counts_[token] = 1;
    for (size_t t = 0; t < input.logits.size(); t++) {
      if (counts_[t] == 0) logits_[t] = kForbidden;
    }
    for (int32_t token : params.allowed_token_ids) counts_[token] = 0;
  }
  ApplyPenalties(params, input);
  for (int32_t token : input.forbidden) logits_[token] = kForbidden;
}

void Sampler::ApplyPenalties(const SamplingParams& params, const SampleInput& input) {
  if (params.repetition_penalty != 1) {
    for (absl::Span<const int32_t> tokens : {input.prompt, input.output}) {
      for (int32_t token : tokens) {
        if (counts_[token]++ > 0) continue;
        float& logit = logits_[token];
        logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
      }
    }
    for (int32_t token : input.prompt) counts_[token] = 0;
    for (int32_t token : input.output) counts_[token] = 0;
  }
  if (params.presence_penalty != 0 || params.frequency_penalty != 0) {
    for (int32_t token : input.output) counts_[token]++;
    for (int32_t token : input.output) {
      if (counts_[token] == 0) continue;
      logits_[token] -= params.presence_penalty + params.frequency_penalty * counts_[token];
      counts_[token] = 0;
    }
  }
}

absl::StatusOr<int32_t> Sampler::Draw(const SamplingParams& params, uint64_t position) {
  choices_.clear();
  for (size_t t = 0; t < logits_.size(); t++) {
    if (logits_[t] == kForbidden) continue;
    choices_.push_back({logits_[t] / params.temperature, static_cast<int32_t>(t), 0});
  }
  if (params.top_k > 0) KeepTopK(params.top_k);
  Normalize();
  if (params.typical_p < 1) KeepTypical(params.typical_p);
  if (params.top_p < 1) KeepTopP(params.top_p);
  if (params.min_p > 0) {
    float top = 0;
    for (const Choice& c : choices_) top = std::max(top, c.probability);
    choices_.erase(
        std::remove_if(choices_.begin(), choices_.end(),
                       [&](const Choice& c) { return c.probability < params.min_p * top; }),
        choices_.end());
  }
  // In order of ids, so that the draw does not depend on how the truncations ordered them.
  std::sort(choices_.begin(), choices_.end(),
            [](const Choice& a, const Choice& b) { return a.token < b.token; });
  double total = 0;
  for (const Choice& c : choices_) total += c.probability;
  const double target = UniformAt(params.seed, position) * total;
  double sum = 0;
  for (const Choice& c : choices_) {
    sum += c.probability;
    if (target < sum) return c.token;
  }
  for (size_t i = choices_.size(); i-- > 0;) {  // rounding left the target at the very end
    if (choices_[i].probability > 0) return choices_[i].token;
  }
  return absl::InternalError("no token has a probability above zero");
}

void Sampler::Normalize() {
  float max = kForbidden;
  for (const Choice& c : choices_) max = std::max(max, c.logit);
  double sum = 0;
  for (Choice& c : choices_) {
    c.probability = std::exp(c.logit - max);
    sum += c.probability;
  }
  for (Choice& c : choices_) c.probability = static_cast<float>(c.probability / sum);
}

void Sampler::KeepTopK(int32_t k) {
  if (choices_.size() <= size_t(k)) return;
  std::nth_element(
      choices_.begin(), choices_.begin() + k, choices_.end(),
      [](const Choice& a, const Choice& b) { return Before(a.logit, a.token, b.logit, b.token); });
  choices_.resize(k);
}

// The tokens whose surprise is nearest to the distribution's entropy, up to `mass` (Meister et al. 2022).
void Sampler::KeepTypical(float mass) {
  double entropy = 0;
  for (const Choice& c : choices_) {
    if (c.probability > 0) entropy -= c.probability * std::log(c.probability);
  }
  auto distance = [&](const Choice& c) {
    return c.probability > 0 ? std::fabs(-std::log(c.probability) - entropy)
                             : std::numeric_limits<double>::infinity();
  };
  std::sort(choices_.begin(), choices_.end(), [&](const Choice& a, const Choice& b) {
    const double da = distance(a), db = distance(b);
    return da < db || (da == db && a.token < b.token);
  });
  double sum = 0;
  size_t n = 0;
  while (n < choices_.size() && sum < mass) sum += choices_[n++].probability;
  choices_.resize(std::max<size_t>(n, 1));
  Normalize();
}

// The most probable tokens up to `mass`. Sorts only as many as it needs.
void Sampler::KeepTopP(float mass) {
  auto before = [](const Choice& a, const Choice& b) {
    return Before(a.logit, a.token, b.logit, b.token);
  };
  double sum = 0;
  size_t sorted = 0;
  for (size_t group = 64; sorted < choices_.size(); group *= 4) {
    const size_t end = std::min(choices_.size(), sorted + group);
    std::partial_sort(choices_.begin() + sorted, choices_.begin() + end, choices_.end(), before);
    for (; sorted < end; sorted++) {
      sum += choices_[sorted].probability;
      if (sum >= mass) {
        choices_.resize(sorted + 1);
        return;
      }
    }
  }
}

double UniformAt(uint64_t seed, uint64_t position) {
  // splitmix64 (Steele, Lea, Flood 2014), keyed by a first round over the seed.
  auto mix = [](uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  };
  constexpr uint64_t kStep = 0x9e3779b97f4a7c15u;
  return static_cast<double>(mix(mix(seed + kStep) + (position + 1) * kStep) >> 11) * 0x1p-53;
}

TokenLogprob LogprobOf(absl::Span<const float> logits, int32_t token, int32_t top_n) {
  TokenLogprob result;
  result.token = token;
  const float max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit) - max);
  const double log_sum = max + std::log(sum);
  result.logprob = static_cast<float>(logits[token] - log_sum);
  result.rank = 1;
  std::vector<int32_t> top;  // a heap with the least probable of the best on top
  auto before = [&](int32_t a, int32_t b) { return Before(logits[a], a, logits[b], b); };
  for (size_t t = 0; t < logits.size(); t++) {
    const int32_t id = static_cast<int32_t>(t);
    result.rank += before(id, token);
    if (static_cast<int32_t>(top.size()) < top_n) {
      top.push_back(id);
      std::push_heap(top.begin(), top.end(), before);
    } else if (top_n > 0 && before(id, top.front())) {
      std::pop_heap(top.begin(), top.end(), before);
      top.back() = id;
      std::push_heap(top.begin(), top.end(), before);
    }
  }
  std::sort_heap(top.begin(), top.end(), before);
  for (int32_t id : top) result.top.emplace_back(id, static_cast<float>(logits[id] - log_sum));
  return result;
}

}  // namespace tauserve
