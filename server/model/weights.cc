#include "server/model/weights.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/host_floats.h"

namespace tauserve {
namespace {

// One matrix of a linear layer, [out, in] in the checkpoint as `name`.weight, and maybe
// `name`.bias.
struct Part {
  std::string name;
  int64_t out = 0;
  bool bias = false;
};

class WeightLoader {
 public:
  WeightLoader(const ModelConfig& config, const Checkpoint& checkpoint, Backend* backend)
      : config_(config), checkpoint_(checkpoint), backend_(backend) {}

  // The first tensor that was missing or had another shape.
  const absl::Status& status() const { return status_; }
  int64_t parameters() const { return parameters_; }

  LayerWeights Layer(int layer);
  std::unique_ptr<DeviceBuffer> Norm(const std::string& name, int64_t size);
  std::unique_ptr<LinearWeight> Linear(const std::vector<Part>& parts, int64_t in);
  // Embedding and output projection, which may be one tensor.
  void Vocabulary(ModelWeights* weights);

 private:
  bool Find(const std::string& name, const std::vector<int64_t>& shape, HostTensor* tensor);
  std::vector<float> HeadConstants(const std::string& name, int64_t size);
  QueryScaleSpec QueryScale(const std::string& attention);

  const ModelConfig& config_;
  const Checkpoint& checkpoint_;
  Backend* backend_;
  absl::Status status_;
  int64_t parameters_ = 0;
};

bool WeightLoader::Find(const std::string& name, const std::vector<int64_t>& shape,
                        HostTensor* tensor) {
  if (!status_.ok()) return false;
  absl::StatusOr<HostTensor> found = checkpoint_.Find(name, shape);
  if (!found.ok()) {
    status_ = found.status();
    return false;
  }
  *tensor = *std::move(found);
  parameters_ += tensor->size();
  return true;
}

std::unique_ptr<DeviceBuffer> WeightLoader::Norm(const std::string& name, int64_t size) {
  HostTensor tensor;
  return Find(name, {size}, &tensor) ? backend_->LoadVector(tensor) : nullptr;
}

std::unique_ptr<LinearWeight> WeightLoader::Linear(const std::vector<Part>& parts, int64_t in) {
  bool any_bias = false;
  for (const Part& part : parts) any_bias |= part.bias;
  std::vector<HostTensor> weights(parts.size());
  std::vector<HostTensor> biases(any_bias ? parts.size() : 0);
  // Parts without a bias among those with one; must not move while `biases` points into them.
  std::vector<std::vector<float>> zeros(parts.size());
  for (size_t i = 0; i < parts.size(); ++i) {
    const Part& part = parts[i];
    if (!Find(part.name + ".weight", {part.out, in}, &weights[i])) return nullptr;
    if (part.bias) {
      if (!Find(part.name + ".bias", {part.out}, &biases[i])) return nullptr;
    } else if (any_bias) {
      zeros[i].assign(part.out, 0);
      biases[i] = {zeros[i].data(), DataType::kFloat32, {part.out}};
    }
  }
  return backend_->LoadLinear(weights, biases);
}

std::vector<float> WeightLoader::HeadConstants(const std::string& name, int64_t size) {
  HostTensor tensor;
  const std::vector<int64_t> trained_shape = {1, size, 1, 1};
  const bool as_trained = checkpoint_.Find(name, trained_shape).ok();
  if (!Find(name, as_trained ? trained_shape : std::vector<int64_t>{size}, &tensor)) return {};
  return ToFloats(tensor);
}

QueryScaleSpec WeightLoader::QueryScale(const std::string& attention) {
  QueryScaleSpec spec;
  spec.kind = config_.entmax.scale_kind;
  spec.first_head = config_.entmax.num_alibi_heads;
  spec.delta = config_.entmax.scale_delta;
  spec.gamma_range = config_.entmax.scale_gamma_range;
  const int64_t heads = config_.num_heads - spec.first_head;
  using Kind = QueryScaleSpec::Kind;
  if (spec.kind == Kind::kLearned || spec.kind == Kind::kLogarithmic) {
    spec.beta = HeadConstants(attention + "attn_scale_beta", heads);
  }
  if (spec.kind == Kind::kLearned) {
    spec.gamma = HeadConstants(attention + "attn_scale_gamma", heads);
  }
  return spec;
}

LayerWeights WeightLoader::Layer(int layer) {
  const std::string prefix = absl::StrCat("model.layers.", layer, ".");
  const std::string attention = prefix + "self_attn.";
  const std::string mlp = prefix + "mlp.";
  const int64_t hidden = config_.hidden_size;
  const int64_t queries = int64_t{config_.num_heads} * config_.head_dim;
  const int64_t keys = int64_t{config_.num_kv_heads} * config_.head_dim;

  LayerWeights weights;
  weights.attention_norm = Norm(prefix + "input_layernorm.weight", hidden);
  std::vector<Part> input = {{attention + "q_proj", queries, config_.qkv_bias},
                             {attention + "k_proj", keys, config_.qkv_bias},
                             {attention + "v_proj", keys, config_.qkv_bias}};
  if (config_.entmax.scale_kind == QueryScaleSpec::Kind::kAdaptive) {
    const int64_t heads = config_.num_heads - config_.entmax.num_alibi_heads;
    const bool bias = config_.entmax.scale_projection_bias;
    input.push_back({attention + "attn_scale_beta_proj", heads, bias});
    input.push_back({attention + "attn_scale_gamma_proj", heads, bias});
  }
  weights.attention_input = Linear(input, hidden);
  if (config_.query_key_norm) {
    weights.query_norm = Norm(attention + "q_norm.weight", config_.head_dim);
    weights.key_norm = Norm(attention + "k_norm.weight", config_.head_dim);
  }
  weights.query_scale = QueryScale(attention);
  weights.attention_output =
      Linear({{attention + "o_proj", hidden, config_.attention_output_bias}}, queries);
  weights.mlp_norm = Norm(prefix + "post_attention_layernorm.weight", hidden);
  weights.gate_up = Linear({{mlp + "gate_proj", config_.intermediate_size, config_.mlp_bias},
                            {mlp + "up_proj", config_.intermediate_size, config_.mlp_bias}},
                           hidden);
  weights.down = Linear({{mlp + "down_proj", hidden, config_.mlp_bias}}, config_.intermediate_size);
  return weights;
}

void WeightLoader::Vocabulary(ModelWeights* weights) {
  HostTensor table;
  if (!Find("model.embed_tokens.weight", {config_.vocab_size, config_.hidden_size}, &table)) return;
  weights->embedding = backend_->LoadEmbedding(table);
  if (config_.tied_embeddings) {
    weights->output = backend_->LoadLinear(absl::MakeConstSpan(&table, 1), {});
  } else {
    weights->output = Linear({{"lm_head", config_.vocab_size}}, config_.hidden_size);
  }
}

}  // namespace

absl::StatusOr<ModelWeights> LoadWeights(const ModelConfig& config, const Checkpoint& checkpoint,
                                         Backend* backend) {
  ModelWeights weights;
  WeightLoader loader(config, checkpoint, backend);
  loader.Vocabulary(&weights);
  for (int layer = 0; layer < config.num_layers && loader.status().ok(); ++layer) {
    weights.layers.push_back(loader.Layer(layer));
  }
  weights.final_norm = loader.Norm("model.norm.weight", config.hidden_size);
  if (!loader.status().ok()) return loader.status();
  weights.parameters = loader.parameters();
  return weights;
}

}  // namespace tauserve
