#include "clients/cpp/report.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"

namespace tauserve::client {
namespace {

double Seconds(const google::protobuf::Duration& d) { return d.seconds() + d.nanos() * 1e-9; }

double Rate(double count, double seconds) { return seconds > 0 ? count / seconds : 0; }

// Share that `part` leaves out of `all`.
double Skipped(uint64_t part, uint64_t all) {
  return all > 0 ? 1 - static_cast<double>(part) / all : 0;
}

}  // namespace

std::string NameOfReason(v1::FinishReason reason) {
  std::string name = v1::FinishReason_Name(reason);
  return absl::AsciiStrToLower(absl::StripPrefix(name, "FINISH_REASON_"));
}

std::string Summary(const Outcome& o) {
  const v1::AttentionStats& a = o.attention;
  const uint32_t computed = o.usage.prompt_tokens() - o.usage.cached_prompt_tokens();
  std::string s =
      absl::StrFormat("prompt       %d tokens (%d cached), prefill %.3f s, %.0f tokens/s\n",
                      o.usage.prompt_tokens(), o.usage.cached_prompt_tokens(),
                      Seconds(o.timings.prefill()), Rate(computed, Seconds(o.timings.prefill())));
  absl::StrAppendFormat(&s, "first token  after %.3f s (%.3f s in the queue)\n",
                        Seconds(o.timings.time_to_first_token()), Seconds(o.timings.queue()));
  const uint32_t tokens = o.usage.completion_tokens();
  absl::StrAppendFormat(&s, "output       %d tokens, ended by %s", tokens,
                        NameOfReason(o.finished.finish_reason()));
  if (tokens > 1) {
    absl::StrAppendFormat(&s, ", %.1f tokens/s", Rate(tokens - 1, Seconds(o.timings.decode())));
  }
  s += "\n";
  if (a.keys_considered() == 0) return s;
  absl::StrAppendFormat(
      &s, "support      %.1f keys a row (prefill %.1f, decode %.1f), %.2f tau steps\n",
      a.mean_support_tokens(), a.mean_prefill_support_tokens(), a.mean_decode_support_tokens(),
      a.mean_tau_iterations());
  absl::StrAppendFormat(
      &s, "prefill      %.1f%% of blocks skipped as empty, %.1f%% without computing a score\n",
      100 * Skipped(a.prefill_blocks_attended(), a.prefill_blocks_considered()),
      100 * Skipped(a.prefill_blocks_scored(), a.prefill_blocks_considered()));
  if (a.kv_pages_considered() > 0) {
    absl::StrAppendFormat(&s, "decode       %.1f%% of KV pages never read\n",
                          100 * Skipped(a.kv_pages_read(), a.kv_pages_considered()));
  }
  return s;
}

nlohmann::ordered_json ToJson(const Outcome& o) {
  nlohmann::ordered_json j;
  j["request_id"] = o.request_id;
  j["text"] = o.text;
  if (!o.token_ids.empty()) j["token_ids"] = o.token_ids;
  for (const v1::TokenLogprob& l : o.logprobs) {
    nlohmann::ordered_json entry = {
        {"token_id", l.token_id()}, {"logprob", l.logprob()}, {"rank", l.rank()}};
    for (const v1::TopLogprob& top : l.top()) {
      entry["top"].push_back({{"token_id", top.token_id()}, {"logprob", top.logprob()}});
    }
    j["logprobs"].push_back(std::move(entry));
  }
  j["finish_reason"] = NameOfReason(o.finished.finish_reason());
  if (!o.finished.stop_string().empty()) j["stop_string"] = o.finished.stop_string();
  j["usage"] = {{"prompt_tokens", o.usage.prompt_tokens()},
                {"cached_prompt_tokens", o.usage.cached_prompt_tokens()},
                {"completion_tokens", o.usage.completion_tokens()}};
  j["timings"] = {{"queue_seconds", Seconds(o.timings.queue())},
                  {"prefill_seconds", Seconds(o.timings.prefill())},
                  {"time_to_first_token_seconds", Seconds(o.timings.time_to_first_token())},
                  {"decode_seconds", Seconds(o.timings.decode())},
                  {"total_seconds", Seconds(o.timings.total())}};
  const v1::AttentionStats& a = o.attention;
  j["attention"] = {{"mean_support_tokens", a.mean_support_tokens()},
                    {"mean_prefill_support_tokens", a.mean_prefill_support_tokens()},
                    {"mean_decode_support_tokens", a.mean_decode_support_tokens()},
                    {"prefill_blocks_considered", a.prefill_blocks_considered()},
                    {"prefill_blocks_scored", a.prefill_blocks_scored()},
                    {"prefill_blocks_attended", a.prefill_blocks_attended()},
                    {"kv_pages_considered", a.kv_pages_considered()},
                    {"kv_pages_read", a.kv_pages_read()},
                    {"keys_considered", a.keys_considered()},
                    {"keys_scored", a.keys_scored()},
                    {"mean_tau_iterations", a.mean_tau_iterations()},
                    {"wide_rows", a.wide_rows()},
                    {"tau_unconverged_rows", a.tau_unconverged_rows()}};
  return j;
}

}  // namespace tauserve::client
