#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "server/model/config.h"

namespace tauserve {
namespace {

using nlohmann::json;

constexpr Interval kAlphaRange{1, 2};

std::vector<std::vector<float>> ReadAlpha(const JsonObject& config, int num_layers, int num_heads) {
  std::vector<std::vector<float>> alpha(num_layers, std::vector<float>(num_heads, 1));
  const json* value = config.Find("entmax_alpha");
  if (value == nullptr) return alpha;
  if (value->is_array() && value->size() != static_cast<size_t>(num_layers)) {
    config.Fail(absl::StrCat("entmax_alpha has ", value->size(),
                             " entries, must be a number or have num_hidden_layers, ", num_layers));
    return alpha;
  }
  for (int layer = 0; layer < num_layers; ++layer) {
    const json& of_layer = value->is_array() ? (*value)[layer] : *value;
    const std::string name =
        value->is_array() ? absl::StrCat("entmax_alpha[", layer, "]") : "entmax_alpha";
    if (of_layer.is_array() && of_layer.size() != static_cast<size_t>(num_heads)) {
      config.Fail(absl::StrCat(name, " has ", of_layer.size(),
                               " entries, must be a number or have num_attention_heads, ",
                               num_heads));
      return alpha;
    }
    for (int head = 0; head < num_heads; ++head) {
      alpha[layer][head] =
          of_layer.is_array() ? config.CheckedNumber(
                                    of_layer[head], absl::StrCat(name, "[", head, "]"), kAlphaRange)
                              : config.CheckedNumber(of_layer, name, kAlphaRange);
    }
  }
  return alpha;
}

void ReadAlibi(const JsonObject& config, int num_heads, EntmaxConfig* entmax) {
  entmax->alibi_slopes.assign(num_heads, 0);
  if (!config.Bool("apply_nape", false)) return;
  const int heads = config.Int("alibi_num_heads", 0, num_heads, num_heads / 2);
  entmax->num_alibi_heads = heads;
  const std::string type = config.String("alibi_slope_type", "linear");
  if (type != "linear" && type != "exp") {
    config.Fail(absl::StrCat("alibi_slope_type is \"", type, "\", must be linear or exp"));
  }
  std::vector<double> slopes;
  if (config.Has("alibi_slopes")) {
    slopes = config.Numbers("alibi_slopes", heads, {0, 1e6});
  } else {
    for (int i = 0; i < heads; ++i) {
      slopes.push_back(type == "linear" ? 1.0 / (i + 1) : std::ldexp(1.0, -i));
    }
  }
  for (int i = 0; i < heads; ++i) entmax->alibi_slopes[i] = static_cast<float>(slopes[i]);
}

void ReadQueryScale(const JsonObject& config, int num_heads, EntmaxConfig* entmax) {
  const std::string type = config.String("attn_scale_type", "");
  if (type.empty()) return;
  if (type == "adapt-softplus-tanh") {
    entmax->scale_kind = QueryScaleSpec::Kind::kAdaptive;
  } else if (type == "learn") {
    entmax->scale_kind = QueryScaleSpec::Kind::kLearned;
  } else if (type == "nakanishi") {
    entmax->scale_kind = QueryScaleSpec::Kind::kLogarithmic;
  } else {
    config.Fail(absl::StrCat("attn_scale_type is \"", type,
                             "\", must be one of adapt-softplus-tanh, learn, nakanishi"));
  }
  if (entmax->num_alibi_heads == num_heads) {
    config.Fail(absl::StrCat("alibi_num_heads is ", entmax->num_alibi_heads, " of ", num_heads,
                             ", must leave a head for attn_scale_type \"", type, "\""));
  }
  entmax->scale_delta = config.Number("attn_scale_delta", {-1e3, 1e3}, 1);
  entmax->scale_gamma_range = config.Number("attn_scale_gamma_range", {-1e2, 1e2}, 2);
  entmax->scale_projection_bias = config.Bool("attn_scale_proj_bias", false);
}

}  // namespace

EntmaxConfig ReadEntmaxConfig(const JsonObject& config, int num_layers, int num_heads) {
  EntmaxConfig entmax;
  entmax.alpha = ReadAlpha(config, num_layers, num_heads);
  ReadAlibi(config, num_heads, &entmax);
  ReadQueryScale(config, num_heads, &entmax);
  return entmax;
}

}  // namespace tauserve
