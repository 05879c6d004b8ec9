// Runs a plan of steps on a model and writes what comes out, for the Python tests that compare it
// with NumPy.
//
// model_logits BACKEND MODEL_DIR PLAN OUT
//   BACKEND  plain, cpu-float32, cpu-bfloat16 or cuda-bfloat16 (weights and KV cache in that type)
//   PLAN     JSON {"seed", "pages", "max_batched_tokens",
//                  "steps": [{"pieces": [[sequence, [token, ...]], ...],
//                             "logit_rows": [row, ...]}, ...],
//                  "greedy": [{"prompt": [token, ...], "count", "chunk"}, ...]}
//   OUT      float32 logits of all logit rows in order; greedy tokens go to stdout, one list a line
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "server/model/config.h"
#include "server/model/transformer.h"
#include "tests/server/model/plain_backend.h"
#include "tests/server/model/sequence_runner.h"

namespace tauserve {
namespace {

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const std::string& name) {
  if (name == "plain") return std::make_unique<PlainBackend>();
  BackendOptions options;
  options.device = name.substr(0, name.find('-'));
  if (name.substr(options.device.size()) == "-bfloat16")
    options.compute_type = options.kv_type = DataType::kBFloat16;
  return CreateBackend(options);
}

absl::Status Run(const std::string& backend_name, const std::string& folder,
                 const nlohmann::json& plan, std::ofstream& out) {
  absl::StatusOr<std::unique_ptr<Backend>> backend = MakeBackend(backend_name);
  if (!backend.ok()) return backend.status();
  absl::StatusOr<ModelConfig> config = LoadModelConfig(folder);
  if (!config.ok()) return config.status();
  KvCacheSpec page;
  page.num_layers = config->num_layers;
  page.num_kv_heads = config->num_kv_heads;
  page.head_dim = config->head_dim;
  ModelOptions options;
  options.max_batched_tokens = plan["max_batched_tokens"];
  options.kv_cache_bytes = plan["pages"].get<int64_t>() * (*backend)->BytesPerPage(page);
  absl::StatusOr<std::unique_ptr<LanguageModel>> model = LoadModel(folder, backend->get(), options);
  if (!model.ok()) return model.status();

  SequenceRunner runner(model->get(), plan["seed"]);
  for (const nlohmann::json& step : plan["steps"]) {
    std::vector<SequenceRunner::Piece> pieces;
    for (const nlohmann::json& piece : step["pieces"]) pieces.push_back({piece[0], piece[1]});
    const absl::Span<const float> logits = runner.Step(pieces, step["logit_rows"]).logits;
    out.write(reinterpret_cast<const char*>(logits.data()), logits.size() * sizeof(float));
  }
  for (const nlohmann::json& greedy : plan["greedy"]) {
    const std::vector<int32_t> tokens =
        runner.Greedy(greedy["prompt"], greedy["count"], greedy["chunk"], nullptr);
    std::cout << nlohmann::json(tokens).dump() << std::endl;
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace tauserve

int main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "usage: model_logits BACKEND MODEL_DIR PLAN OUT\n";
    return 2;
  }
  std::ifstream plan(argv[3]);
  std::ofstream out(argv[4], std::ios::binary);
  const absl::Status status = tauserve::Run(argv[1], argv[2], nlohmann::json::parse(plan), out);
  if (!status.ok()) std::cerr << status << "\n";
  return status.ok() && out.good() ? 0 : 1;
}
