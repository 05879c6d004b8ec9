#include <algorithm>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/model/checkpoint.h"
#include "server/model/generation_config.h"
#include "server/model/transformer.h"

namespace tauserve {
namespace {

constexpr int32_t kMaxBatchedTokens = 1 << 20;

// The last component of a path, whatever slashes are behind it.
std::string FolderName(std::string folder) {
  while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
  return folder.substr(folder.find_last_of('/') + 1);
}

ModelInfo MakeInfo(const std::string& folder, const ModelConfig& config,
                   const GenerationConfig& generation, int64_t parameters) {
  ModelInfo info;
  info.name = FolderName(folder);
  info.architecture = config.architecture;
  info.vocab_size = config.vocab_size;
  info.max_context_tokens = config.max_context_tokens;
  info.num_layers = config.num_layers;
  info.num_heads = config.num_heads;
  info.num_kv_heads = config.num_kv_heads;
  info.head_dim = config.head_dim;
  info.alpha_min = 2;
  info.alpha_max = 1;
  for (const std::vector<float>& heads : config.entmax.alpha) {
    for (const float alpha : heads) {
      info.alpha_min = std::min(info.alpha_min, alpha);
      info.alpha_max = std::max(info.alpha_max, alpha);
    }
  }
  info.eos_token_ids =
      generation.eos_token_ids.empty() ? config.eos_token_ids : generation.eos_token_ids;
  info.parameters = parameters;
  return info;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LanguageModel>> LoadModel(const std::string& folder,
                                                         Backend* backend,
                                                         const ModelOptions& options) {
  if (options.max_batched_tokens < 1 || options.max_batched_tokens > kMaxBatchedTokens) {
    return absl::InvalidArgumentError(absl::StrCat("max_batched_tokens is ",
                                                   options.max_batched_tokens, ", must be in [1, ",
                                                   kMaxBatchedTokens, "]"));
  }
  if (options.kv_cache_bytes < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("kv_cache_bytes is ", options.kv_cache_bytes, ", must not be negative"));
  }
  absl::StatusOr<ModelConfig> config = LoadModelConfig(folder);
  if (!config.ok()) return config.status();
  absl::StatusOr<GenerationConfig> generation = LoadGenerationConfig(folder, config->vocab_size);
  if (!generation.ok()) return generation.status();
  absl::StatusOr<Checkpoint> checkpoint = Checkpoint::Open(folder);
  if (!checkpoint.ok()) return checkpoint.status();
  absl::StatusOr<ModelWeights> weights = LoadWeights(*config, *checkpoint, backend);
  if (!weights.ok()) return weights.status();

  if (absl::Status status = backend->status(); !status.ok()) return status;

  ModelInfo info = MakeInfo(folder, *config, *generation, weights->parameters);
  auto model =
      std::make_unique<Transformer>(std::move(info), *std::move(config), *std::move(weights),
                                    options.max_batched_tokens, backend);
  if (absl::Status status = model->CreateKvCache(options.kv_cache_bytes); !status.ok()) {
    return status;
  }
  if (backend->device().own_memory) {
    if (absl::Status status = model->WarmUp(); !status.ok()) return status;
  }
  return model;
}

}  // namespace tauserve
