// A model's own defaults for sampling, from generation_config.json: what a request that leaves a
// field unset gets.
#ifndef TAUSERVE_SERVER_MODEL_GENERATION_CONFIG_H_
#define TAUSERVE_SERVER_MODEL_GENERATION_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/request/request.h"

namespace tauserve {

struct GenerationConfig {
  // `do_sample: false` means greedy, temperature 0, whatever the other keys say. Keys that are
  // absent keep SamplingParams' own defaults.
  SamplingParams sampling;
  std::vector<int32_t> eos_token_ids;  // empty if the file does not say
};

// A folder without the file has the defaults. InvalidArgument with file, key, value and limit.
absl::StatusOr<GenerationConfig> LoadGenerationConfig(const std::string& folder,
                                                      int32_t vocab_size);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_MODEL_GENERATION_CONFIG_H_
