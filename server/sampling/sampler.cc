#include "server/sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "server/sampling/logits_query.h"

namespace tauserve {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kForbidden = -kInfinity;
// Between a device's sum of weights and this file's, which is a sum of float32 exponentials as well.
constexpr double kSumTolerance = 2 * kTopLogitsSumError;
// By how much the smaller of two exponentials may come out as the larger one.
constexpr double kWeightTolerance = 1e-6;

absl::Status UnusableLogit(int64_t token, float logit) {
  return absl::InternalError(absl::StrCat("logit of token ", token, " is ", logit));
}
absl::Status NoFiniteLogit() { return absl::InternalError("no token has a finite logit"); }
absl::Status NoChoice() {
  return absl::InvalidArgumentError(
      "allowed_token_ids, bad_words and min_new_tokens leave no token to choose");
}

float Weight(float score, float best, float temperature) {
  // The best is taken off before the division: no temperature, however small, makes it infinite.
  return std::exp((score - best) / temperature);
}

// The model's own -infinity stays; what the penalty blows up stays finite, so that the largest is still defined.
float Repeated(float logit, float penalty) {
  if (logit == kForbidden) return logit;
  return std::clamp(logit > 0 ? logit / penalty : logit * penalty, -kLargest, kLargest);
}

}  // namespace

absl::Status CheckLogits(absl::Span<const float> row) {
  int unusable = 0;
  for (float logit : row) unusable |= !(logit < kInfinity);  // NaN too
  if (unusable != 0) {
    const auto bad = std::find_if(row.begin(), row.end(), [](float x) { return !(x < kInfinity); });
    return UnusableLogit(bad - row.begin(), *bad);
  }
  const bool finite = std::any_of(row.begin(), row.end(), [](float x) { return x != kForbidden; });
  return finite ? absl::OkStatus() : NoFiniteLogit();
}

absl::Status CheckLogits(const TopLogits& top) {
  if (top.first_unusable >= 0) return UnusableLogit(top.first_unusable, top.unusable_logit);
  return top.max == kForbidden ? NoFiniteLogit() : absl::OkStatus();
}

Sampler::Sampler(int32_t vocab_size) : logits_(vocab_size), counts_(vocab_size, 0) {
  choices_.reserve(vocab_size);
  ranked_.reserve(vocab_size);
}

absl::StatusOr<int32_t> Sampler::Sample(const SamplingParams& params, const SampleInput& input) {
  if (absl::Status status = CheckLogits(input.logits); !status.ok()) return status;
  std::copy(input.logits.begin(), input.logits.end(), logits_.begin());
  Adjust(params, input);
  if (!params.allowed_token_ids.empty()) {
    for (int32_t token : params.allowed_token_ids) counts_[token] = 1;
    for (size_t t = 0; t < logits_.size(); t++) {
      if (counts_[t] == 0) logits_[t] = kForbidden;
    }
    for (int32_t token : params.allowed_token_ids) counts_[token] = 0;
  }
  if (!input.mask.empty()) {
    for (size_t t = 0; t < logits_.size(); t++) {
      if ((input.mask[t / 64] >> (t % 64) & 1) == 0) logits_[t] = kForbidden;
    }
  }
  const auto best = std::max_element(logits_.begin(), logits_.end());  // the first of equals
  if (*best == kForbidden) return NoChoice();
  if (params.greedy()) return static_cast<int32_t>(best - logits_.begin());
  choices_.clear();
  for (size_t t = 0; t < logits_.size(); t++) {
    if (logits_[t] != kForbidden) choices_.push_back({logits_[t], static_cast<int32_t>(t), 0});
  }
  Truncate(params, *best, {kForbidden, 0, 0});
  return Draw(params.seed + input.candidate, input.output.size());
}

absl::StatusOr<std::optional<int32_t>> Sampler::SampleTop(const SamplingParams& params,
                                                          const SampleInput& input) {
  const TopLogits& top = *input.top;
  if (absl::Status status = CheckLogits(top); !status.ok()) return status;
  if (NeedsWholeRow(params)) return std::nullopt;
  // Nothing reads the other places' logits, but they are adjusted as well.
  for (int i = 0; i < top.count; i++) logits_[top.tokens[i]] = top.logits[i];
  Adjust(params, input);
  choices_.clear();
  for (int i = 0; i < top.count; i++) {
    const float score = logits_[top.tokens[i]];
    if (score > top.bound) choices_.push_back({score, top.tokens[i], 0});
  }
  if (choices_.empty()) {
    if (top.bound == kForbidden) return NoChoice();
    return std::nullopt;
  }
  const Choice best = *std::min_element(choices_.begin(), choices_.end());  // the first in order
  if (params.greedy()) return best.token;
  if (!Truncate(params, best.score, OthersOf(params, top, best.score))) return std::nullopt;
  return Draw(params.seed + input.candidate, input.output.size());
}

void Sampler::Adjust(const SamplingParams& params, const SampleInput& input) {
  for (const auto& [token, bias] : params.logit_bias) logits_[token] += bias;
  ApplyPenalties(params, input);
  CollectForbidden(params, input);
  for (int32_t token : forbidden_) logits_[token] = kForbidden;
}

void Sampler::CollectForbidden(const SamplingParams& params, const SampleInput& input) {
  forbidden_.assign(input.forbidden.begin(), input.forbidden.end());
  for (const std::vector<int32_t>& word : params.bad_words) {
    const size_t before = word.size() - 1;
    if (before > input.output.size()) continue;
    const absl::Span<const int32_t> end = input.output.last(before);
    if (std::equal(end.begin(), end.end(), word.begin())) forbidden_.push_back(word.back());
  }
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

// Bounds of the sum that Sample would find. With a sum, the only logits that are changed are the forbidden ones
// (NeedsWholeRow).
Sampler::Others Sampler::OthersOf(const SamplingParams& params, const TopLogits& top, float best) {
  Others others{top.bound, 0, std::numeric_limits<double>::infinity()};
  if (params.top_p == 1 || params.top_k > 0 || best != top.max) return others;
  double forbidden = 0;
  for (int i = 0; i < top.count; i++) {
    if (logits_[top.tokens[i]] != kForbidden) continue;
    forbidden += Weight(top.logits[i], best, params.temperature);
  }
  const double unseen = forbidden_.size() * Weight(top.bound, best, params.temperature);
  const double error = kSumTolerance * top.sum;
  others.least_sum = top.sum - forbidden - unseen - error;
  others.most_sum = top.sum - forbidden + error;
  return others;
}

bool Sampler::Truncate(const SamplingParams& params, float best, const Others& others) {
  bool alone = others.bound == kForbidden;
  if (params.top_k > 0) {
    alone |= choices_.size() >= static_cast<size_t>(params.top_k);
    if (!alone) return false;
    KeepTopK(params.top_k);
  }
  for (Choice& c : choices_) c.weight = Weight(c.score, best, params.temperature);
  if (!alone) return TruncateBesideOthers(params, best, others);
  if (params.typical_p < 1) KeepTypical(params.typical_p);
  if (params.top_p < 1) KeepTopP(params.top_p);
  if (params.min_p > 0) KeepMinP(params.min_p);
  return true;
}

// Either truncation keeps the first tokens of the ranking, so their order makes no difference, and it is enough if one
// of them certainly ends within the choices and the other one certainly ends at a known place or later.
bool Sampler::TruncateBesideOthers(const SamplingParams& params, float best, const Others& others) {
  const float heaviest = Weight(others.bound, best, params.temperature);
  bool alone = false;
  if (params.min_p > 0 && heaviest < params.min_p * (1 - kWeightTolerance)) {
    KeepMinP(params.min_p);
    alone = true;
  }
  if (params.top_p < 1) {
    const double least = params.top_p * others.least_sum, most = params.top_p * others.most_sum;
    ranked_ = choices_;
    const Cut cut = CutAt((least + most) / 2);
    const double until = cut.before + cut.last.weight;
    if (cut.before < least && until >= most) {
      KeepUpTo(cut.last);
      alone = true;
    } else if (until >= least) {
      return false;
    }
  }
  return alone;
}

int32_t Sampler::Draw(uint64_t seed, uint64_t position) {
  const double target = UniformAt(seed, position) * SumOfWeights();
  double sum = 0;
  int32_t token = -1;
  for (const Choice& c : choices_) {
    if (c.weight == 0) continue;
    token = c.token;
    sum += c.weight;
    if (target < sum) break;
  }
  TAUSERVE_CHECK(token >= 0, "every truncation keeps a token of positive probability");
  return token;
}

double Sampler::SumOfWeights() const {
  double sum = 0;
  for (const Choice& c : choices_) sum += c.weight;
  return sum;
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
  const double sum = SumOfWeights();
  for (Choice& c : choices_) c.weight = static_cast<float>(c.weight / sum);
  double entropy = 0;
  for (const Choice& c : choices_) {
    if (c.weight > 0) entropy -= c.weight * std::log(c.weight);
  }
  for (Choice& c : choices_) {
    const float surprise = -std::log(c.weight);  // infinite for a probability of zero
    c.score = -std::fabs(surprise - static_cast<float>(entropy));
  }
  ranked_ = choices_;
  KeepUpTo(CutAt(mass).last);
  for (Choice& c : choices_) c.score = logits_[c.token];
}

// The most probable tokens up to `mass`.
void Sampler::KeepTopP(float mass) {
  const double sum = SumOfWeights();
  // Those below (1 - mass) / n hold less than 1 - mass together: the others reach `mass` without them. Half of it, so
  // that rounding never leaves nothing.
  const double least = (1 - mass) / 2 / choices_.size() * sum;
  ranked_.clear();
  std::copy_if(choices_.begin(), choices_.end(), std::back_inserter(ranked_),
               [&](const Choice& c) { return c.weight >= least; });
  KeepUpTo(CutAt(mass * sum).last);
}

void Sampler::KeepMinP(float fraction) {
  float top = 0;
  for (const Choice& c : choices_) top = std::max(top, c.weight);
  std::erase_if(choices_, [&](const Choice& c) { return c.weight < fraction * top; });
}

// The one of ranked_, in order, with which the sum of weights reaches `mass`; the last one, if it never does. Halves the
// range in which it must be, so the work is linear however many are kept; first it looks at an eighth, since mostly few
// have the mass.
Sampler::Cut Sampler::CutAt(double mass) {
  size_t begin = 0, end = ranked_.size();
  double before = 0;  // of [0, begin)
  for (size_t part = 8; end - begin > 1; part = 2) {
    const size_t middle = begin + std::max<size_t>(1, (end - begin) / part);
    std::nth_element(ranked_.begin() + begin, ranked_.begin() + middle, ranked_.begin() + end);
    double next = 0;
    for (size_t i = begin; i < middle; i++) next += ranked_[i].weight;
    if (before + next >= mass) {
      end = middle;
    } else {
      before += next;
      begin = middle;
    }
  }
  return {ranked_[begin], before};
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
