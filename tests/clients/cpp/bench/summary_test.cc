// What is made of a run's records: percentiles, goodput, sums. Times are written down here, so no
// machine's speed is in them.
#include "clients/cpp/bench/summary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace tauserve::bench {
namespace {

using testing::ElementsAre;
using testing::FloatNear;
using testing::Pair;
using testing::UnorderedElementsAre;

TEST(DistributionTest, PercentilesOfAFewValues) {
  const Distribution d({4, 1, 3, 2});
  EXPECT_EQ(d.count(), 4);
  EXPECT_DOUBLE_EQ(d.mean(), 2.5);
  EXPECT_DOUBLE_EQ(d.max(), 4);
  EXPECT_DOUBLE_EQ(d.Percentile(0), 1);
  EXPECT_DOUBLE_EQ(d.Percentile(25), 1.75);
  EXPECT_DOUBLE_EQ(d.Percentile(50), 2.5);
  EXPECT_DOUBLE_EQ(d.Percentile(90), 3.7);
  EXPECT_DOUBLE_EQ(d.Percentile(100), 4);
  EXPECT_DOUBLE_EQ(Distribution({7}).Percentile(99), 7);
  EXPECT_EQ(Distribution().Percentile(50), 0);
  EXPECT_EQ(Distribution().max(), 0);
}

// Said plainly: at most this share of the values is under the percentile, and at most the rest over.
TEST(DistributionTest, PercentilesSplitTheValues) {
  std::mt19937 random(1);
  for (const int count : {1, 2, 3, 10, 101, 1000}) {
    std::vector<double> values(count);
    for (double& value : values) value = random() % 100;  // many are equal
    const Distribution d(values);
    for (const double percent : {0.0, 1.0, 37.5, 50.0, 90.0, 99.0, 99.9, 100.0}) {
      const double p = d.Percentile(percent);
      const auto under =
          std::count_if(values.begin(), values.end(), [&](double v) { return v < p; });
      const auto over =
          std::count_if(values.begin(), values.end(), [&](double v) { return v > p; });
      EXPECT_LE(under, (count - 1) * percent / 100 + 1);
      EXPECT_LE(over, (count - 1) * (100 - percent) / 100 + 1);
    }
  }
}

// Due at `intended`, first token half a second later, then one every tenth, end with the last.
RequestRecord Record(double intended, uint32_t tokens) {
  RequestRecord r;
  r.intended = intended;
  r.ready = intended + 0.1;
  r.sent = intended + 0.25;
  r.attempts = 1;
  r.prompt_tokens = 10;
  for (uint32_t i = 0; i < tokens; i++) r.OnTokens(intended + 0.5 + i * 0.1, 1);
  r.end = intended + 0.5 + (std::max(tokens, 1u) - 1) * 0.1;
  r.finish_reason = v1::FINISH_REASON_MAX_NEW_TOKENS;
  return r;
}

RequestRecord Failed(const char* status) {
  RequestRecord r = Record(0, 0);
  r.status = status;
  r.message = "why";
  return r;
}

TEST(RecordTest, LatenciesCountFromWhenTheRequestWasDue) {
  const RequestRecord r = Record(3, 5);
  EXPECT_DOUBLE_EQ(r.TimeToFirstToken(), 0.5);
  EXPECT_DOUBLE_EQ(r.EndToEnd(), 0.9);
  EXPECT_DOUBLE_EQ(r.SendLag(), 0.25);
  EXPECT_DOUBLE_EQ(r.LoopLag(), 0.15);
  EXPECT_NEAR(*r.TimePerOutputToken(), 0.1, 1e-9);
  EXPECT_NEAR(*r.LargestGap(), 0.1, 1e-6);
  EXPECT_FALSE(Record(0, 1).TimePerOutputToken().has_value());
  EXPECT_FALSE(Record(0, 1).LargestGap().has_value());
}

TEST(RecordTest, TokensOfOneMessageShareTheTimeBeforeIt) {
  RequestRecord r;
  r.OnTokens(1, 2);
  r.OnTokens(1, 0);  // text that was held back, no token
  r.OnTokens(4, 3);
  r.OnTokens(5, 1);
  EXPECT_EQ(r.output_tokens, 6);
  EXPECT_EQ(r.deltas, 3);
  EXPECT_EQ(r.first_token, 1);
  EXPECT_EQ(r.last_token, 5);
  EXPECT_THAT(r.gaps, ElementsAre(0, 1, 1, 1, 1));
}

TEST(GoodputTest, AllLimitsHaveToBeMet) {
  const RequestRecord r = Record(0, 5);  // ttft 0.5, gaps 0.1, e2e 0.9
  const auto meets = [&](const std::vector<std::string>& words) {
    const auto limits = GoodputLimits::Parse(words);
    EXPECT_TRUE(limits.ok()) << limits.status();
    return limits->MetBy(r);
  };
  EXPECT_TRUE(meets({}));
  EXPECT_TRUE(meets({"ttft:500ms", "itl:101ms", "tpot:101ms", "e2e:1s"}));
  EXPECT_FALSE(meets({"ttft:499ms", "itl:101ms", "tpot:101ms", "e2e:1s"}));
  EXPECT_FALSE(meets({"ttft:500ms", "itl:99ms", "tpot:101ms", "e2e:1s"}));
  EXPECT_FALSE(meets({"ttft:500ms", "itl:101ms", "tpot:99ms", "e2e:1s"}));
  EXPECT_FALSE(meets({"ttft:500ms", "itl:101ms", "tpot:101ms", "e2e:899ms"}));
}

TEST(GoodputTest, OneLongGapBreaksItlAndNotTpot) {
  RequestRecord r;
  for (int i = 0; i < 9; i++) r.OnTokens(1 + i * 0.01, 1);
  r.OnTokens(2, 1);
  EXPECT_FALSE(GoodputLimits::Parse({"itl:500ms"})->MetBy(r));
  EXPECT_TRUE(GoodputLimits::Parse({"tpot:500ms"})->MetBy(r));
}

TEST(GoodputTest, WithoutTokensOrWithAFailureNothingIsMet) {
  EXPECT_FALSE(GoodputLimits::Parse({"ttft:1h"})->MetBy(Record(0, 0)));
  EXPECT_TRUE(GoodputLimits::Parse({"itl:1ns", "tpot:1ns"})->MetBy(Record(0, 1)));
  EXPECT_FALSE(GoodputLimits().MetBy(Failed("UNAVAILABLE")));
}

TEST(SummaryTest, CountsAndRates) {
  RequestRecord interrupted = Failed("CANCELLED");
  interrupted.interrupted = true;
  RequestRecord again = Failed("RESOURCE_EXHAUSTED");
  again.attempts = 3;
  const std::vector<RequestRecord> records = {
      Record(0, 5),       Record(1, 3), again, Failed("RESOURCE_EXHAUSTED"),
      Failed("INTERNAL"), interrupted};
  const Summary s = Summarize(records, /*seconds=*/4, *GoodputLimits::Parse({"e2e:800ms"}));
  EXPECT_EQ(s.requests, 6);
  EXPECT_EQ(s.ok, 2);
  EXPECT_EQ(s.good, 1);
  EXPECT_EQ(s.interrupted, 1);
  EXPECT_EQ(s.retries, 2);
  EXPECT_EQ(s.failures.size(), 2);
  EXPECT_EQ(s.failures.at("RESOURCE_EXHAUSTED").count, 2);
  EXPECT_EQ(s.failures.at("INTERNAL").message, "why");
  EXPECT_THAT(s.finish_reasons, UnorderedElementsAre(Pair("max_new_tokens", 2)));
  EXPECT_EQ(s.prompt_tokens, 20);
  EXPECT_EQ(s.output_tokens, 8);
  EXPECT_EQ(s.PerSecond(s.ok), 0.5);
  EXPECT_EQ(s.ttft.count(), 2);
  EXPECT_DOUBLE_EQ(s.ttft.max(), 0.5);
  EXPECT_EQ(s.itl.count(), 6);
  EXPECT_NEAR(s.itl.mean(), 0.1, 1e-6);
  EXPECT_DOUBLE_EQ(s.e2e.max(), 0.9);
  EXPECT_EQ(s.send_lag.count(), 6);
}

TEST(SummaryTest, ServerSideMeansAreWeighedByTheirRows) {
  std::vector<RequestRecord> records = {Record(0, 3), Record(0, 1)};
  v1::StreamCompleted& first = records[0].completed.emplace();
  first.mutable_usage()->set_prompt_tokens(30);
  first.mutable_usage()->set_cached_prompt_tokens(20);
  first.mutable_usage()->set_completion_tokens(3);
  first.mutable_timings()->mutable_queue()->set_seconds(2);
  first.mutable_timings()->set_preemptions(1);
  first.mutable_attention()->set_mean_prefill_support_tokens(4);
  first.mutable_attention()->set_mean_decode_support_tokens(9);
  first.mutable_attention()->set_mean_support_tokens(5);
  first.mutable_attention()->set_keys_considered(100);
  v1::StreamCompleted& second = records[1].completed.emplace();
  second.mutable_usage()->set_prompt_tokens(30);
  second.mutable_usage()->set_completion_tokens(1);
  second.mutable_attention()->set_mean_prefill_support_tokens(8);
  second.mutable_attention()->set_mean_support_tokens(8);
  second.mutable_attention()->set_keys_considered(50);
  const Summary s = Summarize(records, 1, GoodputLimits());
  EXPECT_EQ(s.cached_prompt_tokens, 20);
  EXPECT_EQ(s.preemptions, 1);
  EXPECT_EQ(s.queue.max(), 2);
  EXPECT_EQ(s.attention.keys_considered(), 150);
  EXPECT_DOUBLE_EQ(s.attention.mean_prefill_support_tokens(), (10 * 4 + 30 * 8) / 40.0);
  EXPECT_DOUBLE_EQ(s.attention.mean_decode_support_tokens(), 9);
  EXPECT_DOUBLE_EQ(s.attention.mean_support_tokens(), (12 * 5 + 30 * 8) / 42.0);
}

TEST(SummaryTest, OfNothing) {
  const Summary s = Summarize({}, 0, GoodputLimits());
  EXPECT_EQ(s.requests, 0);
  EXPECT_EQ(s.PerSecond(s.ok), 0);
}

TEST(SummaryTest, WindowsOfARamp) {
  const RateCurve curve{1, 3, 2, /*ramp_seconds=*/10};
  std::vector<RequestRecord> records = {Record(1, 2), Record(4.9, 2), Record(5, 2),
                                        Record(9, 2), Record(9.5, 2), Record(10.5, 2)};
  const std::vector<Window> windows = RampWindows(records, curve, GoodputLimits());
  ASSERT_EQ(windows.size(), 2);
  EXPECT_EQ(windows[0].summary.requests, 2);
  EXPECT_EQ(windows[0].rate, 1);
  EXPECT_EQ(windows[1].summary.requests, 3);
  EXPECT_EQ(windows[1].rate, 3);
  EXPECT_DOUBLE_EQ(windows[1].summary.PerSecond(3), 0.6);
}

}  // namespace
}  // namespace tauserve::bench
