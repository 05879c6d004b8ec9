#include "clients/cpp/report.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "clients/cpp/attention_report.h"
#include "clients/cpp/client.h"
#include "clients/cpp/failure.h"

namespace tauserve::client {
namespace {

double Rate(double count, const google::protobuf::Duration& duration) {
  const double seconds = ToSeconds(duration);
  return seconds > 0 ? count / seconds : 0;
}

double PrefillRate(const Outcome& o) {
  return Rate(static_cast<double>(o.usage.prompt_tokens()) - o.usage.cached_prompt_tokens(),
              o.timings.prefill());
}

// Decoding begins with each candidate's second token: the first one comes out of prefill.
double DecodeRate(const Outcome& o) {
  const size_t first = o.candidates.size();
  return o.usage.completion_tokens() > first
             ? Rate(static_cast<double>(o.usage.completion_tokens() - first), o.timings.decode())
             : 0;
}

nlohmann::ordered_json LogprobsJson(const std::vector<v1::TokenLogprob>& logprobs) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const v1::TokenLogprob& l : logprobs) {
    nlohmann::ordered_json entry = {{"token_id", l.token_id()}};
    if (l.has_logprob()) {
      entry["logprob"] = l.logprob();
      entry["rank"] = l.rank();
    }
    for (const v1::TopLogprob& top : l.top()) {
      entry["top"].push_back({{"token_id", top.token_id()}, {"logprob", top.logprob()}});
    }
    list.push_back(std::move(entry));
  }
  return list;
}

nlohmann::ordered_json ErrorJson(const grpc::Status& status) {
  nlohmann::ordered_json error = {{"status", StatusName(status.error_code())},
                                  {"message", status.error_message()}};
  if (const auto delay = RetryDelayOf(status)) error["retry_delay_seconds"] = delay->count() / 1e3;
  return error;
}

void AddText(const CandidateOutcome& c, nlohmann::ordered_json& j) {
  j["text"] = c.text;
  if (!c.token_ids.empty()) j["token_ids"] = c.token_ids;
  if (!c.logprobs.empty()) j["logprobs"] = LogprobsJson(c.logprobs);
}

void AddFinish(const v1::CandidateFinished& finished, nlohmann::ordered_json& j) {
  j["finish_reason"] = NameOfReason(finished.finish_reason());
  if (finished.stop_match_case() == v1::CandidateFinished::kStopString) {
    j["stop_string"] = finished.stop_string();
  }
  if (finished.stop_match_case() == v1::CandidateFinished::kStopTokenId) {
    j["stop_token_id"] = finished.stop_token_id();
  }
}

nlohmann::ordered_json CandidatesJson(const std::vector<CandidateOutcome>& candidates) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (size_t i = 0; i < candidates.size(); i++) {
    nlohmann::ordered_json entry = {{"index", i}};
    AddText(candidates[i], entry);
    if (candidates[i].finished.finish_reason() != v1::FINISH_REASON_UNSPECIFIED) {
      AddFinish(candidates[i].finished, entry);
    }
    list.push_back(std::move(entry));
  }
  return list;
}

void AddCompletion(const Outcome& o, nlohmann::ordered_json& j) {
  AddFinish(o.candidates[0].finished, j);
  j["usage"] = {{"prompt_tokens", o.usage.prompt_tokens()},
                {"cached_prompt_tokens", o.usage.cached_prompt_tokens()},
                {"completion_tokens", o.usage.completion_tokens()}};
  j["timings"] = {{"queue_seconds", ToSeconds(o.timings.queue())},
                  {"prefill_seconds", ToSeconds(o.timings.prefill())},
                  {"time_to_first_token_seconds", ToSeconds(o.timings.time_to_first_token())},
                  {"decode_seconds", ToSeconds(o.timings.decode())},
                  {"total_seconds", ToSeconds(o.timings.total())},
                  {"preemptions", o.timings.preemptions()},
                  {"prefill_tokens_per_second", PrefillRate(o)},
                  {"decode_tokens_per_second", DecodeRate(o)}};
  j["attention"] = AttentionJson(o.attention);
}

}  // namespace

std::string NameOfReason(v1::FinishReason reason) {
  std::string name = v1::FinishReason_Name(reason);
  return absl::AsciiStrToLower(absl::StripPrefix(name, "FINISH_REASON_"));
}

double ToSeconds(const google::protobuf::Duration& duration) {
  return duration.seconds() + duration.nanos() * 1e-9;
}

std::string Summary(const Outcome& o) {
  if (!o.completed) {
    return absl::StrFormat("cut off      after %.3f s: %d of %d prompt tokens read, %d generated\n",
                           o.elapsed_seconds, o.processed_prompt_tokens, o.prompt_tokens,
                           o.completion_tokens);
  }
  std::string s =
      absl::StrFormat("prompt       %d tokens (%d cached), prefill %.3f s, %.0f tokens/s\n",
                      o.usage.prompt_tokens(), o.usage.cached_prompt_tokens(),
                      ToSeconds(o.timings.prefill()), PrefillRate(o));
  absl::StrAppendFormat(&s, "first token  after %.3f s (%.3f s in the queue)\n",
                        ToSeconds(o.timings.time_to_first_token()), ToSeconds(o.timings.queue()));
  absl::StrAppendFormat(&s, "output       %d tokens, ended by %s", o.usage.completion_tokens(),
                        NameOfReason(o.candidates[0].finished.finish_reason()));
  for (size_t i = 1; i < o.candidates.size(); i++) {
    absl::StrAppendFormat(&s, ", %s", NameOfReason(o.candidates[i].finished.finish_reason()));
  }
  if (o.usage.completion_tokens() > o.candidates.size()) {
    absl::StrAppendFormat(&s, ", %.1f tokens/s", DecodeRate(o));
  }
  s += "\n";
  // A softmax model attends to all keys, and reports no sparsity.
  return o.attention.keys_considered() > 0 ? s + AttentionSummary(o.attention) : s;
}

nlohmann::ordered_json ToJson(const Outcome& o, const grpc::Status& status) {
  nlohmann::ordered_json j;
  j["request_id"] = o.request_id;
  AddText(o.candidates[0], j);
  if (o.candidates.size() > 1) j["candidates"] = CandidatesJson(o.candidates);
  if (!o.prompt_logprobs.empty()) j["prompt_logprobs"] = LogprobsJson(o.prompt_logprobs);
  if (o.completed) {
    AddCompletion(o, j);
  } else {
    j["progress"] = {{"prompt_tokens", o.prompt_tokens},
                     {"processed_prompt_tokens", o.processed_prompt_tokens},
                     {"completion_tokens", o.completion_tokens},
                     {"elapsed_seconds", o.elapsed_seconds}};
  }
  if (!status.ok()) j["error"] = ErrorJson(status);
  return j;
}

}  // namespace tauserve::client
