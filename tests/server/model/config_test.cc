#include "server/model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tests/server/model/model_folder.h"

namespace tauserve {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A valid config.json with `changes`, in which the string "absent" takes a key away.
absl::StatusOr<ModelConfig> Load(const json& changes) {
  ModelFolder model;
  json config = model.config;
  config.update(changes);
  for (const auto& [key, value] : changes.items()) {
    if (value == "absent") config.erase(key);
  }
  model.folder().Write("config.json", config.dump());
  return LoadModelConfig(model.path());
}

TEST(ModelConfigTest, ReadsLlama) {
  const absl::StatusOr<ModelConfig> config = Load({{"eos_token_id", {1, 7}}});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->architecture, "LlamaForCausalLM");
  EXPECT_EQ(config->vocab_size, 50);
  EXPECT_EQ(config->num_heads, 4);
  EXPECT_EQ(config->num_kv_heads, 2);
  EXPECT_EQ(config->head_dim, 32);
  EXPECT_EQ(config->max_context_tokens, 1000);
  EXPECT_FLOAT_EQ(config->rms_norm_epsilon, 1e-5);
  EXPECT_FALSE(config->qkv_bias);
  EXPECT_FALSE(config->query_key_norm);
  ASSERT_TRUE(config->rope.has_value());
  EXPECT_EQ(config->rope->theta, 10000);
  EXPECT_EQ(config->rope->rotary_dim, 32);
  EXPECT_THAT(config->sliding_window, ElementsAre(0, 0));
  EXPECT_THAT(config->eos_token_ids, ElementsAre(1, 7));
}

TEST(ModelConfigTest, AbsentKeysMeanWhatTheArchitectureSays) {
  const json sizes = {{"num_attention_heads", 32},
                      {"num_key_value_heads", "absent"},
                      {"hidden_size", 2048},
                      {"head_dim", "absent"}};
  json changes = sizes;
  EXPECT_EQ(Load(changes)->num_kv_heads, 32);
  EXPECT_EQ(Load(changes)->head_dim, 64);
  changes["architectures"] = {"MistralForCausalLM"};
  changes["max_position_embeddings"] = 5000;
  EXPECT_EQ(Load(changes)->num_kv_heads, 8);
  EXPECT_THAT(Load(changes)->sliding_window, ElementsAre(4096, 4096));
  changes["sliding_window"] = nullptr;
  EXPECT_THAT(Load(changes)->sliding_window, ElementsAre(0, 0));
  changes["architectures"] = {"Qwen3ForCausalLM"};
  EXPECT_EQ(Load(changes)->head_dim, 128);
  EXPECT_TRUE(Load(changes)->query_key_norm);
  changes["architectures"] = {"Qwen2ForCausalLM"};
  EXPECT_TRUE(Load(changes)->qkv_bias);
  EXPECT_FALSE(Load(changes)->attention_output_bias);
  changes["sliding_window"] = 100;
  EXPECT_THAT(Load(changes)->sliding_window, ElementsAre(0, 0));
  changes["use_sliding_window"] = true;
  EXPECT_THAT(Load(changes)->sliding_window, ElementsAre(0, 0));  // max_window_layers is 28
  changes["max_window_layers"] = 1;
  EXPECT_THAT(Load(changes)->sliding_window, ElementsAre(0, 100));
  changes["sliding_window"] = 5000;  // as long as the context
  EXPECT_THAT(Load(changes)->sliding_window, ElementsAre(0, 0));
}

TEST(ModelConfigTest, ReadsEntmaxKeys) {
  EntmaxConfig entmax = Load({{"entmax_alpha", "absent"}})->entmax;
  EXPECT_THAT(entmax.alpha, ElementsAre(ElementsAre(1, 1, 1, 1), ElementsAre(1, 1, 1, 1)));
  EXPECT_THAT(entmax.alibi_slopes, ElementsAre(0, 0, 0, 0));
  entmax = Load({{"entmax_alpha", {2, {1, 1.5, 1.25, 2}}}})->entmax;
  EXPECT_THAT(entmax.alpha, ElementsAre(ElementsAre(2, 2, 2, 2), ElementsAre(1, 1.5, 1.25, 2)));

  json nape = {{"apply_nape", true}, {"apply_rotary", false}};
  EXPECT_FALSE(Load(nape)->rope.has_value());
  EXPECT_THAT(Load(nape)->entmax.alibi_slopes, ElementsAre(1, 0.5f, 0, 0));
  nape["alibi_num_heads"] = 3;
  EXPECT_THAT(Load(nape)->entmax.alibi_slopes, ElementsAre(1, 0.5f, 1 / 3.f, 0));
  nape["alibi_slope_type"] = "exp";
  EXPECT_THAT(Load(nape)->entmax.alibi_slopes, ElementsAre(1, 0.5f, 0.25f, 0));
  nape["alibi_slopes"] = {0.1, 0, 3};
  EXPECT_THAT(Load(nape)->entmax.alibi_slopes, ElementsAre(0.1f, 0, 3, 0));

  nape["attn_scale_type"] = "learn";
  nape["attn_scale_delta"] = 0.25;
  entmax = Load(nape)->entmax;
  EXPECT_EQ(entmax.scale_kind, QueryScaleSpec::Kind::kLearned);
  EXPECT_EQ(entmax.num_alibi_heads, 3);
  EXPECT_EQ(entmax.scale_delta, 0.25);
  EXPECT_EQ(entmax.scale_gamma_range, 2);
}

TEST(ModelConfigTest, ReadsRope) {
  const json yarn = {{"type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 250}};
  RopeParameters rope = *Load({{"rope_scaling", yarn}, {"rope_theta", 500}})->rope;
  EXPECT_EQ(rope.kind, RopeParameters::Kind::kYarn);
  EXPECT_EQ(rope.theta, 500);
  EXPECT_EQ(rope.original_context, 250);
  EXPECT_NEAR(rope.attention_factor, 1.138629, 1e-6);  // 0.1 ln 4 + 1
  rope = *Load({{"rope_parameters", {{"rope_type", "linear"}, {"factor", 2}, {"rope_theta", 9}}},
                {"rope_theta", 500},
                {"partial_rotary_factor", 0.5}})
              ->rope;
  EXPECT_EQ(rope.kind, RopeParameters::Kind::kLinear);
  EXPECT_EQ(rope.theta, 9);
  EXPECT_EQ(rope.rotary_dim, 16);
}

TEST(ModelConfigTest, RefusesAMissingOrBrokenFile) {
  TemporaryFolder folder;
  const absl::Status missing = LoadModelConfig(folder.path()).status();
  EXPECT_TRUE(absl::IsNotFound(missing));
  EXPECT_THAT(std::string(missing.message()), HasSubstr(folder.File("config.json")));
  for (const char* text : {"", "{", "[]", "{\"a\":1,\"a\":2}", "nul", "{\"vocab_size\": 1e999}"}) {
    folder.Write("config.json", text);
    EXPECT_TRUE(absl::IsInvalidArgument(LoadModelConfig(folder.path()).status())) << text;
  }
}

struct BadConfig {
  const char* changes;
  std::vector<const char*> message;  // all of these are in it
};

class BadConfigTest : public ::testing::TestWithParam<BadConfig> {};

TEST_P(BadConfigTest, IsRefusedWithKeyValueAndLimit) {
  const absl::Status status = Load(json::parse(GetParam().changes)).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("/config.json: "));
  for (const char* part : GetParam().message) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Values, BadConfigTest,
    ::testing::ValuesIn(std::vector<BadConfig>{
        {R"({"architectures": ["GPT2LMHeadModel"]})", {"GPT2LMHeadModel", "Qwen3ForCausalLM"}},
        {R"({"architectures": "absent"})", {"architectures is missing"}},
        {R"({"architectures": 3})", {"architectures is 3"}},
        {R"({"vocab_size": "absent"})", {"vocab_size is missing"}},
        {R"({"vocab_size": 0})", {"vocab_size is 0", "[1, 16777216]"}},
        {R"({"vocab_size": 1e9})", {"vocab_size is 1000000000.0"}},
        {R"({"vocab_size": "50"})", {"vocab_size is \"50\""}},
        {R"({"vocab_size": 18446744073709551615})", {"18446744073709551615", "16777216"}},
        {R"({"hidden_size": -24})", {"hidden_size is -24"}},
        {R"({"intermediate_size": 1000000000000})", {"intermediate_size", "1048576"}},
        {R"({"num_hidden_layers": 0})", {"num_hidden_layers is 0"}},
        {R"({"num_hidden_layers": 100000})", {"num_hidden_layers is 100000", "1024"}},
        {R"({"num_attention_heads": 0})", {"num_attention_heads is 0"}},
        {R"({"num_key_value_heads": 3})", {"num_key_value_heads is 3", "4"}},
        {R"({"num_key_value_heads": 8})", {"num_key_value_heads is 8", "4"}},
        {R"({"head_dim": 40})", {"head_dim is 40", "multiple of 16", "[32, 256]"}},
        {R"({"head_dim": 16})", {"head_dim is 16", "[32, 256]"}},
        {R"({"head_dim": 272})", {"head_dim is 272", "[32, 256]"}},
        {R"({"head_dim": "absent", "hidden_size": 130})", {"hidden_size is 130", "4"}},
        {R"({"head_dim": "absent"})", {"head_dim is 6"}},
        {R"({"max_position_embeddings": 0})", {"max_position_embeddings is 0"}},
        {R"({"rms_norm_eps": 0})", {"rms_norm_eps is 0", "(0, 1]"}},
        {R"({"rms_norm_eps": "x"})", {"rms_norm_eps is \"x\""}},
        {R"({"hidden_act": "gelu"})", {"hidden_act is \"gelu\"", "gelu_pytorch_tanh"}},
        {R"({"hidden_act": 1})", {"hidden_act is 1", "string"}},
        {R"({"attention_bias": "no"})", {"attention_bias is \"no\"", "true or false"}},
        {R"({"tie_word_embeddings": 1})", {"tie_word_embeddings is 1"}},
        {R"({"quantization_config": {}})", {"quantization_config"}},
        {R"({"attn_type": "stick-break"})", {"stick-break", "regular"}},
        {R"({"eos_token_id": 50})", {"eos_token_id is 50", "[0, 49]"}},
        {R"({"eos_token_id": [1, -1]})", {"eos_token_id[1] is -1"}},
        {R"({"eos_token_id": "x"})", {"eos_token_id is \"x\""}},
        {R"({"architectures": ["MistralForCausalLM"], "sliding_window": 0})",
         {"sliding_window is 0", "[1,"}},
        {R"({"architectures": ["Qwen3ForCausalLM"], "use_sliding_window": true,
             "layer_types": ["full_attention"]})",
         {"layer_types has 1", "2"}},
        {R"({"architectures": ["Qwen3ForCausalLM"], "use_sliding_window": true,
             "layer_types": ["full_attention", "linear_attention"]})",
         {"layer_types[1] is \"linear_attention\""}}}));

INSTANTIATE_TEST_SUITE_P(
    Rope, BadConfigTest,
    ::testing::ValuesIn(std::vector<BadConfig>{
        {R"({"rope_theta": 1})", {"rope_theta is 1", "(1,"}},
        {R"({"rope_theta": -5})", {"rope_theta is -5"}},
        {R"({"partial_rotary_factor": 1.5})", {"partial_rotary_factor is 1.5", "(0, 1]"}},
        {R"({"partial_rotary_factor": 0.1})", {"partial_rotary_factor", "3 of 32"}},
        {R"({"rope_scaling": 4})", {"rope_scaling is 4", "object"}},
        {R"({"rope_scaling": {"type": "longrope"}})",
         {"rope_scaling.rope_type", "longrope", "yarn"}},
        {R"({"rope_scaling": {"type": "linear"}})", {"rope_scaling.factor is missing"}},
        {R"({"rope_scaling": {"type": "linear", "factor": 0.5}})",
         {"rope_scaling.factor is 0.5", "[1,"}},
        {R"({"rope_scaling": {"rope_type": "llama3", "factor": 8}})",
         {"rope_scaling.low_freq_factor is missing"}},
        {R"({"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
             "high_freq_factor": 4}})",
         {"low_freq_factor is 4", "high_freq_factor, 4"}},
        {R"({"rope_scaling": {"rope_type": "yarn", "factor": 8, "beta_fast": 1}})",
         {"beta_slow is 1", "beta_fast, 1"}},
        {R"({"rope_scaling": {"rope_type": "yarn", "factor": 8, "attention_factor": 0}})",
         {"attention_factor is 0", "(0,"}},
        {R"({"rope_parameters": {"full_attention": {}}})", {"layer type"}}}));

INSTANTIATE_TEST_SUITE_P(
    Entmax, BadConfigTest,
    ::testing::ValuesIn(std::vector<BadConfig>{
        {R"({"entmax_alpha": 0.9})", {"entmax_alpha is 0.9", "[1, 2]"}},
        {R"({"entmax_alpha": 2.01})", {"entmax_alpha is 2.01", "[1, 2]"}},
        {R"({"entmax_alpha": "1.5"})", {"entmax_alpha is \"1.5\""}},
        {R"({"entmax_alpha": [1.5]})", {"entmax_alpha has 1", "2"}},
        {R"({"entmax_alpha": [1.5, [1.5, 1.5, 1.5]]})", {"entmax_alpha[1] has 3", "4"}},
        {R"({"entmax_alpha": [1.5, [1.5, 1.5, 3, 1.5]]})", {"entmax_alpha[1][2] is 3"}},
        {R"({"entmax_alpha": [1.5, null]})", {"entmax_alpha[1] is null"}},
        {R"({"apply_nape": 1})", {"apply_nape is 1"}},
        {R"({"apply_nape": true, "alibi_num_heads": 5})", {"alibi_num_heads is 5", "[0, 4]"}},
        {R"({"apply_nape": true, "alibi_slope_type": "cubic"})", {"cubic", "linear or exp"}},
        {R"({"apply_nape": true, "alibi_slopes": [1]})", {"alibi_slopes is [1]", "2 numbers"}},
        {R"({"apply_nape": true, "alibi_slopes": [1, -1]})", {"alibi_slopes[1] is -1", "[0,"}},
        {R"({"attn_scale_type": "linear"})", {"attn_scale_type is \"linear\"", "nakanishi"}},
        {R"({"attn_scale_type": "learn", "apply_nape": true, "alibi_num_heads": 4})",
         {"alibi_num_heads is 4 of 4", "learn"}},
        {R"({"attn_scale_type": "learn", "attn_scale_delta": 1e30})", {"attn_scale_delta"}}}));

}  // namespace
}  // namespace tauserve
