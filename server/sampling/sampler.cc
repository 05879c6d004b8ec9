#include "server/sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace tauserve {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kForbidden = -kInfinity;

absl::Status CheckLogits(absl::Span<const float> logits) {
  int unusable = 0;
  for (float logit : logits) unusable |= !(logit < kInfinity);  // NaN too
  if (unusable == 0) return absl::OkStatus();
  const auto bad =
      std::find_if(logits.begin(), logits.end(), [](float x) { return !(x < kInfinity); });
  return absl::InternalError(absl::StrCat("logit of token ", bad - logits.begin(), " is ", *bad));
}

// The model's own -infinity stays; what the penalty blows up stays finite, so that the largest is still defined.
float Repeated(float logit, float penalty) {
  if (logit == kForbidden) return logit;
  return std::clamp(logit > 0 ? logit / penalty : logit * penalty, -kLargest, kLargest);
}

}  // namespace

Sampler::Sampler(int32_t vocab_size) : logits_(vocab_size), counts_(vocab_size, 0) {
  choices_.reserve(vocab_size);
  ranked_.reserve(vocab_size);
}

absl::StatusOr<int32_t> Sampler::Sample(const SamplingParams& params, const SampleInput& input) {
  if (absl::Status status = CheckLogits(input.logits); !status.ok()) return status;
  Adjust(params, input);
  const auto best = std::max_element(logits_.begin(), logits_.end());  // the first of equals
  if (*best == kForbidden) return absl::InternalError("no token has a finite logit");
  if (params.greedy()) return static_cast<int32_t>(best - logits_.begin());
  return Draw(params, *best, input.output.size());
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
        logits_[token] = Repeated(logits_[token], params.repetition_penalty);
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

int32_t Sampler::Draw(const SamplingParams& params, float best, uint64_t position) {
  choices_.clear();
  for (size_t t = 0; t < logits_.size(); t++) {
    if (logits_[t] != kForbidden) choices_.push_back({logits_[t], static_cast<int32_t>(t), 0});
  }
  if (params.top_k > 0) KeepTopK(params.top_k);
  // The best is taken off before the division: no temperature, however small, makes it infinite.
  for (Choice& c : choices_) c.probability = std::exp((c.score - best) / params.temperature);
  Normalize();
  if (params.typical_p < 1) KeepTypical(params.typical_p);
  if (params.top_p < 1) KeepTopP(params.top_p);
  if (params.min_p > 0) KeepMinP(params.min_p);

  double total = 0;
  for (const Choice& c : choices_) total += c.probability;
  const double target = UniformAt(params.seed, position) * total;
  double sum = 0;
  int32_t token = -1;
  for (const Choice& c : choices_) {
    if (c.probability == 0) continue;
    token = c.token;
    sum += c.probability;
    if (target < sum) break;
  }
  TAUSERVE_CHECK(token >= 0, "every truncation keeps a token of positive probability");
  return token;
}

void Sampler::Normalize() {
  double sum = 0;
  for (const Choice& c : choices_) sum += c.probability;
  for (Choice& c : choices_) c.probability = static_cast<float>(c.probability / sum);
}

void Sampler::KeepTopK(size_t k) {
  if (choices_.size() <= k) return;
  if (k <=
      1024) {  // a heap of the best, which few of the others enter: half the time of the selection below
    ranked_.resize(k);
    std::partial_sort_copy(choices_.begin(), choices_.end(), ranked_.begin(), ranked_.end());
  } else {
    ranked_ = choices_;
    std::nth_element(ranked_.begin(), ranked_.begin() + (k - 1), ranked_.end());
  }
  KeepUpTo(ranked_[k - 1]);
}

// The tokens whose surprise is nearest to the distribution's entropy, up to `mass` (Meister et al. 2022).
void Sampler::KeepTypical(float mass) {
  double entropy = 0;
  for (const Choice& c : choices_) {
    if (c.probability > 0) entropy -= c.probability * std::log(c.probability);
  }
  for (Choice& c : choices_) {
    const float surprise = -std::log(c.probability);  // infinite for a probability of zero
    c.score = -std::fabs(surprise - static_cast<float>(entropy));
  }
  ranked_ = choices_;
  KeepUpTo(LastWithin(mass));
  Normalize();
  for (Choice& c : choices_) c.score = logits_[c.token];
}

// The most probable tokens up to `mass`.
void Sampler::KeepTopP(float mass) {
  // Those below (1 - mass) / n hold less than 1 - mass together: the others reach `mass` without them. Half of it, so
  // that rounding never leaves nothing.
  const float least = (1 - mass) / 2 / choices_.size();
  ranked_.clear();
  std::copy_if(choices_.begin(), choices_.end(), std::back_inserter(ranked_),
               [&](const Choice& c) { return c.probability >= least; });
  KeepUpTo(LastWithin(mass));
}

void Sampler::KeepMinP(float fraction) {
  float top = 0;
  for (const Choice& c : choices_) top = std::max(top, c.probability);
  std::erase_if(choices_, [&](const Choice& c) { return c.probability < fraction * top; });
}

// The one of ranked_, in order, with which the sum of probabilities reaches `mass`; the last one, if it never does.
// Halves the range in which it must be, so the work is linear however many are kept.
Sampler::Choice Sampler::LastWithin(float mass) {
  size_t begin = 0, end = ranked_.size();
  double before = 0;  // probability of [0, begin)
  while (end - begin > 1) {
    const size_t middle = begin + (end - begin) / 2;
    std::nth_element(ranked_.begin() + begin, ranked_.begin() + middle, ranked_.begin() + end);
    double half = 0;
    for (size_t i = begin; i < middle; i++) half += ranked_[i].probability;
    if (before + half >= mass) {
      end = middle;
    } else {
      before += half;
      begin = middle;
    }
  }
  return ranked_[begin];
}

void Sampler::KeepUpTo(const Choice& last) {
  std::erase_if(choices_, [&](const Choice& c) { return last < c; });
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

}  // namespace tauserve
