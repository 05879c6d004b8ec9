// A transformer's weights in the form its backend wants, read from a checkpoint tensor by tensor.
// Names are those of Hugging Face's Llama ("model.layers.0.self_attn.q_proj.weight", ...), with the
// query and key norms of Qwen3 and, in `self_attn.`, what length-scaled queries need for their n =
// num_heads - num_alibi_heads scaled heads in order:
//   adapt-softplus-tanh  attn_scale_beta_proj, attn_scale_gamma_proj: weight [n, hidden_size],
//                        and bias [n] if attn_scale_proj_bias
//   learn                attn_scale_beta, attn_scale_gamma: [1, n, 1, 1] or [n]
//   nakanishi            attn_scale_beta, likewise
#ifndef TAUSERVE_SERVER_MODEL_WEIGHTS_H_
#define TAUSERVE_SERVER_MODEL_WEIGHTS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "server/model/checkpoint.h"
#include "server/model/config.h"

namespace tauserve {

struct LayerWeights {
  std::unique_ptr<DeviceBuffer> attention_norm;
  // All that multiplies the normed input: query, key, value, and the query scale's beta and gamma
  // where they are projections (kAdaptive).
  std::unique_ptr<LinearWeight> attention_input;
  std::unique_ptr<DeviceBuffer> query_norm;  // nullptr without ModelConfig::query_key_norm
  std::unique_ptr<DeviceBuffer> key_norm;
  QueryScaleSpec query_scale;
  std::unique_ptr<LinearWeight> attention_output;
  std::unique_ptr<DeviceBuffer> mlp_norm;
  std::unique_ptr<LinearWeight> gate_up;
  std::unique_ptr<LinearWeight> down;
};

struct ModelWeights {
  std::unique_ptr<EmbeddingWeight> embedding;
  std::vector<LayerWeights> layers;
  std::unique_ptr<DeviceBuffer> final_norm;
  std::unique_ptr<LinearWeight> output;  // [vocab_size, hidden_size]
  int64_t parameters = 0;                // tied ones counted once
};

// InvalidArgument with the file, the tensor and both shapes where checkpoint and config disagree.
absl::StatusOr<ModelWeights> LoadWeights(const ModelConfig& config, const Checkpoint& checkpoint,
                                         Backend* backend);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_MODEL_WEIGHTS_H_
