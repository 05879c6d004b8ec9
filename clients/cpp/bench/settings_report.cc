#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cpp/bench/settings.h"
#include "google/protobuf/util/json_util.h"

namespace tauserve::bench {
namespace {

nlohmann::ordered_json RateJson(const Settings& s) {
  if (!s.rate->is_ramp()) return s.rate->first;
  return {{"first", s.rate->first},
          {"last", s.rate->last},
          {"steps", s.rate->steps},
          {"seconds", s.rate->ramp_seconds}};
}

std::string ArrivalsName(double burstiness) {
  if (burstiness == 1) return "Poisson";
  return std::isinf(burstiness) ? "evenly spaced" : absl::StrCat("burstiness ", burstiness);
}

// Fields of the requests, by their names in the API.
nlohmann::ordered_json ParametersJson(const v1::GenerationInput& parameters) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(parameters, &text, options).ok()) return {};
  return nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
}

}  // namespace

nlohmann::ordered_json SettingsJson(const Settings& s) {
  nlohmann::ordered_json j = {{"loop", s.rate ? "open" : "closed"}};
  if (s.rate) {
    j[s.rate->is_ramp() ? "ramp" : "rate"] = RateJson(s);
    j["burstiness"] = s.burstiness;
    if (std::isinf(s.burstiness)) j["burstiness"] = "inf";  // JSON has no number for it
  }
  if (s.max_concurrency > 0) j["max_concurrency"] = s.max_concurrency;
  if (s.num_requests != std::numeric_limits<uint64_t>::max()) j["num_requests"] = s.num_requests;
  if (!std::isinf(s.duration)) j["duration_seconds"] = s.duration;
  j["warmup_requests"] = s.warmup_requests;
  j["retries"] = s.retries;
  j["connections"] = s.connections;
  j["seed"] = s.seed;
  if (!s.prompts_file.empty()) {
    j["prompts"] = s.prompts_file;
  } else {
    j["prompt_tokens"] = s.prompt_tokens.text();
    if (!s.text_file.empty()) j["text"] = s.text_file;
    j["prefix_tokens"] = s.prefix_tokens;
    j["num_prefixes"] = s.num_prefixes;
  }
  j["output_tokens"] = s.output_tokens.text();
  j["parameters"] = ParametersJson(s.parameters);
  const std::pair<const char*, std::optional<double>> limits[] = {{"ttft", s.goodput.ttft},
                                                                  {"itl", s.goodput.itl},
                                                                  {"tpot", s.goodput.tpot},
                                                                  {"e2e", s.goodput.e2e}};
  for (const auto& [name, seconds] : limits) {
    if (seconds) j["goodput_limits_seconds"][name] = *seconds;
  }
  return j;
}

std::string DescribeLoad(const Settings& s) {
  if (!s.rate) {
    return absl::StrFormat("closed loop, %d user%s", s.max_concurrency,
                           s.max_concurrency == 1 ? "" : "s");
  }
  std::string text = "open loop, ";
  if (s.rate->is_ramp()) {
    absl::StrAppendFormat(&text, "%g to %g requests/s in %.4g s", s.rate->first, s.rate->last,
                          s.rate->ramp_seconds);
    if (s.rate->steps > 0) absl::StrAppendFormat(&text, " and %d steps", s.rate->steps);
  } else {
    absl::StrAppendFormat(&text, "%g requests/s", s.rate->first);
  }
  absl::StrAppend(&text, " (", ArrivalsName(s.burstiness), ")");
  if (s.max_concurrency > 0) absl::StrAppend(&text, ", at most ", s.max_concurrency, " in flight");
  return text;
}

std::string DescribeRequests(const Settings& s) {
  std::string text;
  if (!s.prompts_file.empty()) {
    text = absl::StrCat("prompts of ", s.prompts_file);
  } else {
    text = absl::StrCat("prompts of ", s.prompt_tokens.text(), " tokens, ",
                        s.text_file.empty() ? "random" : absl::StrCat("of ", s.text_file));
    if (s.prefix_tokens > 0) {
      absl::StrAppend(&text, ", behind ", s.prefix_tokens, " shared ones");
      if (s.num_prefixes > 1) absl::StrAppend(&text, " of ", s.num_prefixes, " kinds");
    }
  }
  return absl::StrCat(text, "; output ", s.output_tokens.text(), "; seed ", s.seed);
}

}  // namespace tauserve::bench
