#include "server/model/config.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tauserve {
namespace {

// Bounds far above any real model that keep products of sizes inside 64 bits.
constexpr int64_t kMaxVocab = 1 << 24;
constexpr int64_t kMaxWidth = 1 << 20;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 1024;
constexpr int64_t kMaxContext = 1 << 27;

// What config.json leaves to the architecture: values of keys that may be absent, and parts without
// a key.
struct Family {
  const char* architecture;
  int default_kv_heads;  // 0 = num_attention_heads
  int default_head_dim;  // 0 = hidden_size / num_attention_heads
  bool always_qkv_bias;
  bool reads_attention_bias;  // for query, key, value and output projections
  bool reads_mlp_bias;
  bool query_key_norm;
  enum { kNoWindow, kAllLayers, kUpperLayers } window;
};

constexpr Family kFamilies[] = {
    {"LlamaForCausalLM", 0, 0, false, true, true, false, Family::kNoWindow},
    {"MistralForCausalLM", 8, 0, false, false, false, false, Family::kAllLayers},
    {"Qwen2ForCausalLM", 32, 0, true, false, false, false, Family::kUpperLayers},
    {"Qwen3ForCausalLM", 32, 128, false, true, false, true, Family::kUpperLayers},
};

const Family* FindFamily(const JsonObject& json, std::string* architecture) {
  const std::vector<std::string> names = json.Strings("architectures");
  *architecture = names.size() == 1 ? names[0] : "";
  for (const Family& family : kFamilies) {
    if (*architecture == family.architecture) return &family;
  }
  std::string supported;
  for (const Family& family : kFamilies) absl::StrAppend(&supported, " ", family.architecture);
  json.Fail(absl::StrCat("architectures is ", names.empty() ? "missing" : "[\"" + names[0] + "\"]",
                         ", must be a list of one of:", supported));
  return nullptr;
}

// Keys that would change the result and that this server does not compute.
void RefuseUnsupported(const JsonObject& json) {
  if (json.Has("quantization_config")) json.Fail("quantization_config: not supported");
  const std::string type = json.String("attn_type", "regular");
  if (type != "regular") json.Fail(absl::StrCat("attn_type is \"", type, "\", must be regular"));
  if (json.Bool("poly_fit", false)) json.Fail("poly_fit is true, must be false");
}

void ReadSizes(const JsonObject& json, const Family& family, ModelConfig* config) {
  config->vocab_size = json.Int("vocab_size", 1, kMaxVocab);
  config->hidden_size = json.Int("hidden_size", 1, kMaxWidth);
  config->intermediate_size = json.Int("intermediate_size", 1, kMaxWidth);
  config->num_layers = json.Int("num_hidden_layers", 1, kMaxLayers);
  config->num_heads = json.Int("num_attention_heads", 1, kMaxHeads);
  config->max_context_tokens = json.Int("max_position_embeddings", 1, kMaxContext);
  const bool one_for_each = family.default_kv_heads == 0 || json.IsNull("num_key_value_heads");
  const int kv_fallback = one_for_each ? config->num_heads : family.default_kv_heads;
  config->num_kv_heads = json.Int("num_key_value_heads", 1, kMaxHeads, kv_fallback);
  if (config->num_heads % config->num_kv_heads != 0) {
    json.Fail(absl::StrCat("num_key_value_heads is ", config->num_kv_heads,
                           ", must divide num_attention_heads, ", config->num_heads));
  }
  if (!json.Has("head_dim") && family.default_head_dim == 0 &&
      config->hidden_size % config->num_heads != 0) {
    json.Fail(absl::StrCat("hidden_size is ", config->hidden_size,
                           ", must be a multiple of num_attention_heads, ", config->num_heads,
                           ", where there is no head_dim"));
  }
  const int dim_fallback =
      family.default_head_dim ? family.default_head_dim : config->hidden_size / config->num_heads;
  config->head_dim = json.Int("head_dim", 1, kMaxWidth, dim_fallback);
  if (config->head_dim % 16 != 0 || config->head_dim < 32 || config->head_dim > 256) {
    json.Fail(
        absl::StrCat("head_dim is ", config->head_dim, ", must be a multiple of 16 in [32, 256]"));
  }
}

Activation ReadActivation(const JsonObject& json) {
  const std::string name = json.String("hidden_act", "silu");
  if (name == "silu" || name == "swish") return Activation::kSilu;
  // All of these are the tanh form; "gelu" is the exact one, with erf.
  if (name == "gelu_pytorch_tanh" || name == "gelu_new" || name == "gelu_fast") {
    return Activation::kGeluTanh;
  }
  json.Fail(absl::StrCat("hidden_act is \"", name,
                         "\", must be one of silu, swish, gelu_pytorch_tanh, gelu_new, gelu_fast"));
  return Activation::kSilu;
}

// Window of each layer. Absent keys mean what they mean to the architecture: a window of 4096 that
// Mistral has in all layers and Qwen in none unless `use_sliding_window`; null is no window.
std::vector<int> ReadSlidingWindow(const JsonObject& json, const Family& family,
                                   const ModelConfig& config) {
  std::vector<int> windows(config.num_layers, 0);
  if (family.window == Family::kNoWindow) return windows;
  const bool used = family.window == Family::kAllLayers
                        ? !json.IsNull("sliding_window")
                        : json.Bool("use_sliding_window", false) && !json.IsNull("sliding_window");
  if (!used) return windows;
  const int window = json.Int("sliding_window", 1, kMaxContext, 4096);
  // A window as long as the context hides nothing.
  const int effective = window >= config.max_context_tokens ? 0 : window;
  if (family.window == Family::kAllLayers) {
    std::fill(windows.begin(), windows.end(), effective);
    return windows;
  }
  const std::vector<std::string> types = json.Strings("layer_types");
  if (!types.empty() && types.size() != windows.size()) {
    json.Fail(absl::StrCat("layer_types has ", types.size(),
                           " entries, must have num_hidden_layers, ", windows.size()));
    return windows;
  }
  const int64_t first = json.Int("max_window_layers", 0, kMaxLayers, 28);
  for (int layer = 0; layer < config.num_layers; ++layer) {
    bool sliding = layer >= first;
    if (!types.empty()) {
      sliding = types[layer] == "sliding_attention";
      if (!sliding && types[layer] != "full_attention") {
        json.Fail(absl::StrCat("layer_types[", layer, "] is \"", types[layer],
                               "\", must be full_attention or sliding_attention"));
      }
    }
    if (sliding) windows[layer] = effective;
  }
  return windows;
}

}  // namespace

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& folder) {
  absl::StatusOr<JsonObject> json = JsonObject::Load(folder + "/config.json");
  if (!json.ok()) return json.status();
  ModelConfig config;
  const Family* family = FindFamily(*json, &config.architecture);
  if (family == nullptr) return json->status();
  RefuseUnsupported(*json);
  ReadSizes(*json, *family, &config);
  // What follows makes lists of these sizes.
  if (!json->status().ok()) return json->status();

  config.rms_norm_epsilon = json->Number("rms_norm_eps", {0, 1, true}, 1e-6);
  config.activation = ReadActivation(*json);
  const bool attention_bias = family->reads_attention_bias && json->Bool("attention_bias", false);
  config.qkv_bias = family->always_qkv_bias || attention_bias;
  config.attention_output_bias = attention_bias;
  config.mlp_bias = family->reads_mlp_bias && json->Bool("mlp_bias", false);
  config.query_key_norm = family->query_key_norm;
  config.tied_embeddings = json->Bool("tie_word_embeddings", false);
  config.sliding_window = ReadSlidingWindow(*json, *family, config);
  if (json->Bool("apply_rotary", true)) {
    config.rope = ReadRopeParameters(*json, config.head_dim, config.max_context_tokens);
  }
  config.entmax = ReadEntmaxConfig(*json, config.num_layers, config.num_heads);
  for (const int64_t id : json->Ints("eos_token_id", 0, config.vocab_size - 1)) {
    config.eos_token_ids.push_back(static_cast<int32_t>(id));
  }
  if (!json->status().ok()) return json->status();
  return config;
}

}  // namespace tauserve
