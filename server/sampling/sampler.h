// Chooses the next token from a row of logits, or from the largest of them where these decide. Everything random comes
// from (seed + candidate, position) alone, so a request gets the same tokens whatever runs beside it, and the same from either. One
// sampler serves all requests of one thread.
#ifndef TAUSERVE_SERVER_SAMPLING_SAMPLER_H_
#define TAUSERVE_SERVER_SAMPLING_SAMPLER_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/top_logits.h"
#include "server/request/request.h"

namespace tauserve {

struct SampleInput {
  absl::Span<const float> logits;  // the whole row, or
  const TopLogits* top = nullptr;  // what the device found, asked by QueryFor
  absl::Span<const int32_t> prompt;
  absl::Span<const int32_t> output;     // so far; its length is the position of the random number
  absl::Span<const int32_t> forbidden;  // may not come now (stops before min_new_tokens)
  int32_t candidate = 0;            // draws with the seed that lies so far behind the parameters'
  absl::Span<const uint64_t> mask;  // bit t % 64 of word t / 64: token t may come; empty: all
};

class Sampler {
 public:
  explicit Sampler(int32_t vocab_size);

  // Meanings and order of the parameters: proto/tauserve/inference/v1/inference.proto. Ties go to the lowest id.
  // Internal if a logit is NaN or +infinity, or if none is finite; InvalidArgument if the parameters leave no choice.
  absl::StatusOr<int32_t> Sample(const SamplingParams& params, const SampleInput& input);
  // The same from input.top: the token that Sample would choose from the whole row, or nullopt where it depends on
  // logits that are not there. Errors are Sample's as well.
  absl::StatusOr<std::optional<int32_t>> SampleTop(const SamplingParams& params,
                                                   const SampleInput& input);

 private:
  struct Choice {
    float score;  // what a truncation orders by: the highest is kept longest
    int32_t token;
    float weight;  // the probability times the same for all
    // The order of truncations: ties go to the lowest id.
    bool operator<(const Choice& other) const {
      return score > other.score || (score == other.score && token < other.token);
    }
  };

  // What is known of tokens that are not among the choices.
  struct Others {
    float bound;  // none has a larger score; -infinity: none can be drawn
    // Bounds of the sum of all tokens' weights, the choices' included and the best one's being 1.
    double least_sum, most_sum;
  };
  // Where a ranking's sum of weights reaches a mass.
  struct Cut {
    Choice last;
    double before;  // sum of the weights before it
  };

  void Adjust(const SamplingParams& params, const SampleInput& input);
  // To forbidden_: input.forbidden, and the last tokens of bad words whose others the output ends with.
  void CollectForbidden(const SamplingParams& params, const SampleInput& input);
  void ApplyPenalties(const SamplingParams& params, const SampleInput& input);
  Others OthersOf(const SamplingParams& params, const TopLogits& top, float best);
  // Drops from choices_ what the truncations drop, and weighs the rest. False where it depends on other tokens.
  bool Truncate(const SamplingParams& params, float best, const Others& others);
  bool TruncateBesideOthers(const SamplingParams& params, float best, const Others& others);
  int32_t Draw(uint64_t seed, uint64_t position);
  double SumOfWeights() const;
  void KeepTopK(size_t k);
  void KeepTypical(float mass);
  void KeepTopP(float mass);
  void KeepMinP(float fraction);
  Cut CutAt(double mass);
  void KeepUpTo(const Choice& last);

  std::vector<float> logits_;
  std::vector<int32_t> forbidden_;
  std::vector<int32_t> counts_;  // workspace, all zero between calls
  std::vector<Choice> choices_;  // what may still be drawn, in order of ids
  std::vector<Choice> ranked_;   // workspace of truncations, in any order
};

// Internal if a logit of the row is NaN or +infinity, or if none is finite.
absl::Status CheckLogits(absl::Span<const float> row);
absl::Status CheckLogits(const TopLogits& top);

// Uniform in [0, 1), a function of its arguments only.
double UniformAt(uint64_t seed, uint64_t position);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_SAMPLING_SAMPLER_H_
