#include "clients/cpp/bench/summary.h"

#include <algorithm>
#include <utility>

#include "clients/cpp/report.h"

namespace tauserve::bench {
namespace {

// Sums counts, and weighs means by the query rows that they are of: a prompt's computed tokens, and
// the output's but the first, which comes out of the prompt's last row.
class AttentionSum {
 public:
  void Add(const v1::StreamCompleted& completed) {
    const v1::AttentionStats& a = completed.attention();
    const v1::Usage& usage = completed.usage();
    const double prefill =
        usage.prompt_tokens() - std::min(usage.prompt_tokens(), usage.cached_prompt_tokens());
    const double decode = usage.completion_tokens() - std::min(usage.completion_tokens(), 1u);
    prefill_rows_ += prefill;
    decode_rows_ += decode;
    prefill_support_ += a.mean_prefill_support_tokens() * prefill;
    decode_support_ += a.mean_decode_support_tokens() * decode;
    support_ += a.mean_support_tokens() * (prefill + decode);
    iterations_ += a.mean_tau_iterations() * (prefill + decode);
    sum_.set_prefill_blocks_considered(sum_.prefill_blocks_considered() +
                                       a.prefill_blocks_considered());
    sum_.set_prefill_blocks_scored(sum_.prefill_blocks_scored() + a.prefill_blocks_scored());
    sum_.set_prefill_blocks_attended(sum_.prefill_blocks_attended() + a.prefill_blocks_attended());
    sum_.set_kv_pages_considered(sum_.kv_pages_considered() + a.kv_pages_considered());
    sum_.set_kv_pages_read(sum_.kv_pages_read() + a.kv_pages_read());
    sum_.set_keys_considered(sum_.keys_considered() + a.keys_considered());
    sum_.set_keys_scored(sum_.keys_scored() + a.keys_scored());
    sum_.set_wide_rows(sum_.wide_rows() + a.wide_rows());
    sum_.set_tau_unconverged_rows(sum_.tau_unconverged_rows() + a.tau_unconverged_rows());
  }

  v1::AttentionStats Total() {
    const double rows = prefill_rows_ + decode_rows_;
    if (prefill_rows_ > 0) sum_.set_mean_prefill_support_tokens(prefill_support_ / prefill_rows_);
    if (decode_rows_ > 0) sum_.set_mean_decode_support_tokens(decode_support_ / decode_rows_);
    if (rows > 0) {
      sum_.set_mean_support_tokens(support_ / rows);
      sum_.set_mean_tau_iterations(iterations_ / rows);
    }
    return sum_;
  }

 private:
  v1::AttentionStats sum_;
  double prefill_rows_ = 0, decode_rows_ = 0;
  double support_ = 0, prefill_support_ = 0, decode_support_ = 0, iterations_ = 0;
};

struct Values {
  std::vector<double> ttft, itl, tpot, e2e, queue, prefill, send_lag, loop_lag;
};

void AddOk(const RequestRecord& r, Summary& s, Values& v, AttentionSum& attention) {
  s.ok++;
  s.finish_reasons[client::NameOfReason(r.finish_reason)]++;
  s.prompt_tokens += r.prompt_tokens;
  s.output_tokens += r.output_tokens;
  s.deltas += r.deltas;
  if (r.output_tokens > 0) v.ttft.push_back(r.TimeToFirstToken());
  v.itl.insert(v.itl.end(), r.gaps.begin(), r.gaps.end());
  if (const auto time = r.TimePerOutputToken()) v.tpot.push_back(*time);
  v.e2e.push_back(r.EndToEnd());
  if (!r.completed) return;
  s.cached_prompt_tokens += r.completed->usage().cached_prompt_tokens();
  s.preemptions += r.completed->timings().preemptions();
  v.queue.push_back(client::ToSeconds(r.completed->timings().queue()));
  v.prefill.push_back(client::ToSeconds(r.completed->timings().prefill()));
  attention.Add(*r.completed);
}

}  // namespace

Summary Summarize(const std::vector<RequestRecord>& records, double seconds,
                  const GoodputLimits& limits) {
  Summary s;
  Values v;
  AttentionSum attention;
  s.seconds = seconds;
  s.requests = records.size();
  for (const RequestRecord& r : records) {
    s.retries += r.attempts > 0 ? r.attempts - 1 : 0;
    if (r.attempts > 0) {
      v.send_lag.push_back(r.SendLag());
      v.loop_lag.push_back(r.LoopLag());
    }
    s.good += limits.MetBy(r);
    if (r.ok()) {
      AddOk(r, s, v, attention);
    } else if (r.interrupted) {
      s.interrupted++;
    } else {
      Summary::Failures& failures = s.failures[r.status];
      if (failures.count++ == 0) failures.message = r.message;
    }
  }
  s.attention = attention.Total();
  const std::pair<Distribution*, std::vector<double>*> distributions[] = {
      {&s.ttft, &v.ttft},         {&s.itl, &v.itl},          {&s.tpot, &v.tpot},
      {&s.e2e, &v.e2e},           {&s.queue, &v.queue},      {&s.prefill, &v.prefill},
      {&s.send_lag, &v.send_lag}, {&s.loop_lag, &v.loop_lag}};
  for (const auto& [distribution, values] : distributions) {
    *distribution = Distribution(std::move(*values));
  }
  return s;
}

std::vector<Window> RampWindows(const std::vector<RequestRecord>& records, const RateCurve& curve,
                                const GoodputLimits& limits) {
  const uint32_t count = curve.steps > 0 ? curve.steps : 10;
  const double width = curve.ramp_seconds / count;
  std::vector<std::vector<RequestRecord>> parts(count);
  for (const RequestRecord& record : records) {
    const auto part = static_cast<uint64_t>(record.intended / width);
    if (part < count) parts[part].push_back(record);
  }
  std::vector<Window> windows;
  for (uint32_t i = 0; i < count; i++) {
    if (parts[i].empty()) continue;
    Window window{i * width, (i + 1) * width, curve.At((i + 0.5) * width), {}};
    window.summary = Summarize(parts[i], width, limits);
    windows.push_back(std::move(window));
  }
  return windows;
}

}  // namespace tauserve::bench
