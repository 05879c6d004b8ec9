// Any bytes as config.json and as generation_config.json: refused, or every value is in its range.
#include <cstdint>

#include "kernels/check.h"
#include "server/model/config.h"
#include "server/model/generation_config.h"
#include "tests/fuzz/memory_folder.h"

namespace tauserve {
namespace {

void CheckConfig(const ModelConfig& c) {
  TAUSERVE_CHECK(c.vocab_size > 0 && c.hidden_size > 0 && c.intermediate_size > 0, "sizes");
  TAUSERVE_CHECK(c.num_layers > 0 && c.num_heads > 0 && c.head_dim > 0, "shapes");
  TAUSERVE_CHECK(c.num_kv_heads > 0 && c.num_heads % c.num_kv_heads == 0, "heads");
  TAUSERVE_CHECK(c.max_context_tokens > 0 && c.rms_norm_epsilon >= 0, "limits");
  TAUSERVE_CHECK(static_cast<int>(c.sliding_window.size()) == c.num_layers, "windows");
  TAUSERVE_CHECK(static_cast<int>(c.entmax.alpha.size()) == c.num_layers, "alphas");
  for (const auto& heads : c.entmax.alpha) {
    TAUSERVE_CHECK(static_cast<int>(heads.size()) == c.num_heads, "alphas of heads");
    for (const float alpha : heads) TAUSERVE_CHECK(alpha >= 1 && alpha <= 2, "alpha");
  }
  TAUSERVE_CHECK(static_cast<int>(c.entmax.alibi_slopes.size()) == c.num_heads, "slopes");
  for (const int32_t id : c.eos_token_ids) {
    TAUSERVE_CHECK(id >= 0 && id < c.vocab_size, "eos");
  }
  if (c.rope) MakeRopeSpec(*c.rope);
}

}  // namespace
}  // namespace tauserve

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const tauserve::MemoryFolder* const folder = new tauserve::MemoryFolder();
  const absl::string_view text = tauserve::AsText(data, size);
  folder->Write("config.json", text);
  const auto config = tauserve::LoadModelConfig(folder->path());
  if (config.ok()) tauserve::CheckConfig(*config);
  folder->Write("generation_config.json", text);
  const auto generation = tauserve::LoadGenerationConfig(folder->path(), 1000);
  if (generation.ok()) {
    for (const int32_t id : generation->eos_token_ids) {
      TAUSERVE_CHECK(id >= 0 && id < 1000, "eos of the generation");
    }
  }
  return 0;
}
