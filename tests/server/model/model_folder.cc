#include "tests/server/model/model_folder.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>

#include "kernels/check.h"

namespace tauserve {

TemporaryFolder::TemporaryFolder() {
  std::string pattern = std::filesystem::temp_directory_path() / "tauserve-model-XXXXXX";
  TAUSERVE_CHECK(mkdtemp(pattern.data()) != nullptr, "no temporary folder");
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() { std::filesystem::remove_all(path_); }

void TemporaryFolder::Write(const std::string& name, const std::string& bytes) const {
  std::ofstream file(File(name), std::ios::binary);
  file << bytes;
  TAUSERVE_CHECK(file.good(), "can't write a test's file");
}

std::string SafetensorsBytes(const std::string& header, const std::string& data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(uint64_t{header.size()} >> (8 * i));
  return bytes + header + data;
}

ModelFolder::ModelFolder(int vocab_size) {
  config = {{"architectures", {"LlamaForCausalLM"}},
            {"vocab_size", vocab_size},
            {"hidden_size", 24},
            {"intermediate_size", 40},
            {"num_hidden_layers", 2},
            {"num_attention_heads", 4},
            {"num_key_value_heads", 2},
            {"head_dim", 32},
            {"max_position_embeddings", 1000},
            {"tie_word_embeddings", false},
            {"rms_norm_eps", 1e-5},
            {"entmax_alpha", 1.5},
            {"eos_token_id", 1}};
  shapes = {{"model.embed_tokens.weight", {vocab_size, 24}},
            {"model.norm.weight", {24}},
            {"lm_head.weight", {vocab_size, 24}}};
  for (const char* layer : {"model.layers.0.", "model.layers.1."}) {
    const std::string p = layer;
    shapes[p + "input_layernorm.weight"] = {24};
    shapes[p + "post_attention_layernorm.weight"] = {24};
    shapes[p + "self_attn.q_proj.weight"] = {128, 24};
    shapes[p + "self_attn.k_proj.weight"] = {64, 24};
    shapes[p + "self_attn.v_proj.weight"] = {64, 24};
    shapes[p + "self_attn.o_proj.weight"] = {24, 128};
    shapes[p + "mlp.gate_proj.weight"] = {40, 24};
    shapes[p + "mlp.up_proj.weight"] = {40, 24};
    shapes[p + "mlp.down_proj.weight"] = {24, 40};
  }
}

void ModelFolder::Write() const {
  folder_.Write("config.json", config.dump());
  nlohmann::json header;
  std::string data;
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(-0.4f, 0.4f);
  for (const auto& [name, shape] : shapes) {
    const size_t begin = data.size();
    int64_t size = 1;
    for (const int64_t dim : shape) size *= dim;
    std::vector<float> values(size);
    for (float& value : values) value = uniform(random);
    data.append(reinterpret_cast<const char*>(values.data()), size * sizeof(float));
    header[name] = {{"dtype", "F32"}, {"shape", shape}, {"data_offsets", {begin, data.size()}}};
  }
  folder_.Write("model.safetensors", SafetensorsBytes(header.dump(), data));
}

}  // namespace tauserve
