#include "clients/cpp/attention_report.h"

#include "absl/strings/str_format.h"

namespace tauserve::client {
namespace {

// The share of `all` that `part` leaves out.
double LeftOut(uint64_t part, uint64_t all) {
  return all > 0 ? 1 - static_cast<double>(part) / all : 0;
}

double BlocksSkipped(const v1::AttentionStats& a) {
  return LeftOut(a.prefill_blocks_attended(), a.prefill_blocks_considered());
}
double BlocksNeverScored(const v1::AttentionStats& a) {
  return LeftOut(a.prefill_blocks_scored(), a.prefill_blocks_considered());
}
double PagesSkipped(const v1::AttentionStats& a) {
  return LeftOut(a.kv_pages_read(), a.kv_pages_considered());
}

}  // namespace

std::string AttentionSummary(const v1::AttentionStats& a) {
  std::string s = absl::StrFormat(
      "support      %.1f keys a row (prefill %.1f, decode %.1f), %.2f tau iterations\n",
      a.mean_support_tokens(), a.mean_prefill_support_tokens(), a.mean_decode_support_tokens(),
      a.mean_tau_iterations());
  absl::StrAppendFormat(&s, "prefill      %.1f%% of blocks skipped, %.1f%% never scored\n",
                        100 * BlocksSkipped(a), 100 * BlocksNeverScored(a));
  if (a.kv_pages_considered() > 0) {
    absl::StrAppendFormat(&s, "decode       %.1f%% of KV pages skipped\n", 100 * PagesSkipped(a));
  }
  return s;
}

nlohmann::ordered_json AttentionJson(const v1::AttentionStats& a) {
  return {{"mean_support_tokens", a.mean_support_tokens()},
          {"mean_prefill_support_tokens", a.mean_prefill_support_tokens()},
          {"mean_decode_support_tokens", a.mean_decode_support_tokens()},
          {"prefill_blocks_considered", a.prefill_blocks_considered()},
          {"prefill_blocks_scored", a.prefill_blocks_scored()},
          {"prefill_blocks_attended", a.prefill_blocks_attended()},
          {"prefill_blocks_skipped_share", BlocksSkipped(a)},
          {"prefill_blocks_never_scored_share", BlocksNeverScored(a)},
          {"kv_pages_considered", a.kv_pages_considered()},
          {"kv_pages_read", a.kv_pages_read()},
          {"kv_pages_skipped_share", PagesSkipped(a)},
          {"keys_considered", a.keys_considered()},
          {"keys_scored", a.keys_scored()},
          {"mean_tau_iterations", a.mean_tau_iterations()},
          {"wide_rows", a.wide_rows()},
          {"tau_unconverged_rows", a.tau_unconverged_rows()}};
}

}  // namespace tauserve::client
