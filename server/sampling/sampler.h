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
  // Internal if no finite choice is left (NaN logits).
  absl::StatusOr<int32_t> Sample(const SamplingParams& params, const SampleInput& input);

 private:
  struct Choice {
    float logit;
    int32_t token;
    float probability;
  };

  void Adjust(const SamplingParams& params, const SampleInput& input);
  void ApplyPenalties(const SamplingParams& params, const SampleInput& input);
  absl::StatusOr<int32_t> Draw(const SamplingParams& params, uint64_t position);
  void Normalize();
  void KeepTopK(int32_t k);
  void KeepTypical(float mass);
  void KeepTopP(float mass);

  std::vector<float> logits_;
  std::vector<int32_t> counts_;  // workspace, all zero between calls
  std::vector<Choice> choices_;
};

// Uniform in [0, 1), a function of its arguments only.
double UniformAt(uint64_t seed, uint64_t position);

// Log-probability, rank and the `top_n` most probable alternatives of `token` under the model's distribution at
// temperature 1.
TokenLogprob LogprobOf(absl::Span<const float> logits, int32_t token, int32_t top_n);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_SAMPLING_SAMPLER_H_
