// What a model is: the architecture and sizes of a folder's config.json, every value checked.
//
// Architectures: Llama, Mistral, Qwen2, Qwen3 (`...ForCausalLM`). Each may have the keys of entmax
// models, which are those of the ASEntmax research code (arXiv 2506.16640):
//   entmax_alpha      number, list with one for each layer, or list of lists with one for each
//                     layer and head, in [1, 2]; 1 (the default) is softmax
//   apply_rotary      false: no rotary embedding. Default true
//   apply_nape        true: the first `alibi_num_heads` heads (default: half of them) get an ALiBi
//                     bias slope * (key position - query position), with slopes by
//                     `alibi_slope_type`, "linear" (1 / i for i = 1.., the default) or "exp"
//                     (2^-i for i = 0..), or from the list `alibi_slopes`. apply_rotary decides
//                     for all heads at once, as in the research code: true turns ALiBi heads too
//   attn_scale_type   length scaling of the queries of the heads without ALiBi:
//                     "adapt-softplus-tanh", "learn", "nakanishi"; see QueryScaleSpec in
//                     kernels/backend.h. With it `attn_scale_delta` (default 1),
//                     `attn_scale_gamma_range` (2) and `attn_scale_proj_bias` (false)
#ifndef TAUSERVE_SERVER_MODEL_CONFIG_H_
#define TAUSERVE_SERVER_MODEL_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "server/model/json_object.h"
#include "server/model/rope.h"

namespace tauserve {

// The part of attention that entmax models add.
struct EntmaxConfig {
  std::vector<std::vector<float>> alpha;  // [num_layers][num_heads]
  std::vector<float> alibi_slopes;        // [num_heads]; 0 where there is no bias
  int num_alibi_heads = 0;                // the first ones
  QueryScaleSpec::Kind scale_kind = QueryScaleSpec::Kind::kNone;
  float scale_delta = 1;
  float scale_gamma_range = 2;
  bool scale_projection_bias = false;
};

struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM"
  int vocab_size = 0;
  int hidden_size = 0;
  int intermediate_size = 0;
  int num_layers = 0;
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int max_context_tokens = 0;
  float rms_norm_epsilon = 0;
  Activation activation = Activation::kSilu;
  bool qkv_bias = false;
  bool attention_output_bias = false;
  bool mlp_bias = false;
  bool query_key_norm = false;  // RMS norm of each query and key head before the rotary embedding
  bool tied_embeddings = false;
  std::vector<int> sliding_window;  // [num_layers]; keys a query sees, itself included; 0 = all
  std::optional<RopeParameters> rope;
  EntmaxConfig entmax;
  std::vector<int32_t> eos_token_ids;  // maybe none
};

// Reads `folder`/config.json. NotFound; InvalidArgument with file, key, value and limit.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& folder);

// The entmax keys; what is wrong goes to config's status.
EntmaxConfig ReadEntmaxConfig(const JsonObject& config, int num_layers, int num_heads);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_MODEL_CONFIG_H_
