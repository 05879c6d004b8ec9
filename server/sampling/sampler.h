// Chooses the next token from a row of logits. Everything random comes from (seed, position) alone, so a request gets
// the same tokens whatever runs beside it. One sampler serves all requests of one thread.
#ifndef TAUSERVE_SERVER_SAMPLING_SAMPLER_H_
#define TAUSERVE_SERVER_SAMPLING_SAMPLER_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/request/request.h"

namespace tauserve {

struct SampleInput {
  absl::Span<const float> logits;
  absl::Span<const int32_t> prompt;
  absl::Span<const int32_t> output;  // so far; its length is the position of the random number
  absl::Span<const int32_t>
      forbidden;  // tokens that may not come now (stops before min_new_tokens)
};

class Sampler {
 public:
  explicit Sampler(int32_t vocab_size);

  // Meanings and order of the parameters: proto/tauserve/inference/v1/inference.proto. Ties go to the lowest id.
  // Internal if a logit is NaN or +infinity, or if no finite choice is left.
  absl::StatusOr<int32_t> Sample(const SamplingParams& params, const SampleInput& input);

 private:
  struct Choice {
    float score;  // what a truncation orders by: the highest is kept longest
    int32_t token;
    float probability;
    // The order of truncations: ties go to the lowest id.
    bool operator<(const Choice& other) const {
      return score > other.score || (score == other.score && token < other.token);
    }
  };

  void Adjust(const SamplingParams& params, const SampleInput& input);
  void ApplyPenalties(const SamplingParams& params, const SampleInput& input);
  int32_t Draw(const SamplingParams& params, float best, uint64_t position);
  void Normalize();
  void KeepTopK(size_t k);
  void KeepTypical(float mass);
  void KeepTopP(float mass);
  void KeepMinP(float fraction);
  Choice LastWithin(float mass);
  void KeepUpTo(const Choice& last);

  std::vector<float> logits_;
  std::vector<int32_t> counts_;  // workspace, all zero between calls
  std::vector<Choice> choices_;  // what may still be drawn, in order of ids
  std::vector<Choice> ranked_;   // workspace of truncations, in any order
};

// Uniform in [0, 1), a function of its arguments only.
double UniformAt(uint64_t seed, uint64_t position);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_SAMPLING_SAMPLER_H_
