#include "server/model/generation_config.h"

#include "absl/status/status.h"
#include "server/model/json_object.h"

namespace tauserve {

absl::StatusOr<GenerationConfig> LoadGenerationConfig(const std::string& folder,
                                                      int32_t vocab_size) {
  GenerationConfig config;
  absl::StatusOr<JsonObject> json = JsonObject::Load(folder + "/generation_config.json");
  if (absl::IsNotFound(json.status())) return config;
  if (!json.ok()) return json.status();

  SamplingParams& sampling = config.sampling;
  sampling.temperature = json->Number("temperature", {0, 100}, sampling.temperature);
  sampling.top_k = json->Int("top_k", 0, INT32_MAX, sampling.top_k);
  sampling.top_p = json->Number("top_p", {0, 1, true}, sampling.top_p);
  sampling.min_p = json->Number("min_p", {0, 1}, sampling.min_p);
  sampling.typical_p = json->Number("typical_p", {0, 1, true}, sampling.typical_p);
  sampling.repetition_penalty =
      json->Number("repetition_penalty", {0, 1e6, true}, sampling.repetition_penalty);
  if (!json->Bool("do_sample", true)) sampling.temperature = 0;
  for (const int64_t id : json->Ints("eos_token_id", 0, vocab_size - 1)) {
    config.eos_token_ids.push_back(static_cast<int32_t>(id));
  }
  if (!json->status().ok()) return json->status();
  return config;
}

}  // namespace tauserve
