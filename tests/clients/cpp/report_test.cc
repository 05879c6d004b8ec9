// The lines that people read: progress, statistics, errors.
#include "clients/cpp/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "clients/cpp/failure.h"
#include "clients/cpp/progress_bar.h"

namespace tauserve::client {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

TEST(ProgressBarTest, ShowsShareRateAndTimeLeft) {
  EXPECT_EQ(ProgressLine({0, 100, 0, 0}, 100),
            "prefill [------------------------------] 0/100 tokens");
  EXPECT_EQ(ProgressLine({50, 100, 0, 2}, 100),
            "prefill [###############---------------] 50/100 tokens, 25 tokens/s, 2.0 s left");
  EXPECT_EQ(ProgressLine({100, 100, 0, 4}, 100),
            "prefill [##############################] 100/100 tokens, 25 tokens/s");
  EXPECT_THAT(ProgressLine({0, 0, 0, 1}, 100), HasSubstr("0/0 tokens"));
}

TEST(ProgressBarTest, CachedTokensAreNoWork) {
  EXPECT_THAT(ProgressLine({60, 100, 40, 2}, 100), HasSubstr("10 tokens/s, 4.0 s left"));
  EXPECT_THAT(ProgressLine({40, 100, 40, 2}, 100), Not(HasSubstr("tokens/s")));
}

TEST(ProgressBarTest, FitsTheTerminal) {
  const PrefillState state{8192, 16384, 0, 1.5};
  for (const int columns : {200, 80, 72}) {
    EXPECT_LT(ProgressLine(state, columns).size(), columns) << columns;
  }
  EXPECT_THAT(ProgressLine(state, 20), HasSubstr("[##---]")) << "never without a bar";
}

Outcome MakeOutcome() {
  Outcome o;
  o.request_id = "r1";
  o.candidates[0].text = "hi";
  o.started = o.completed = true;
  o.candidates[0].finished.set_finish_reason(v1::FINISH_REASON_STOP_STRING);
  o.candidates[0].finished.set_stop_string("\n");
  o.usage.set_prompt_tokens(1000);
  o.usage.set_cached_prompt_tokens(200);
  o.usage.set_completion_tokens(11);
  o.timings.mutable_prefill()->set_seconds(2);
  o.timings.mutable_time_to_first_token()->set_nanos(125'000'000);
  o.timings.mutable_decode()->set_nanos(500'000'000);
  o.attention.set_keys_considered(10);
  o.attention.set_prefill_blocks_considered(100);
  o.attention.set_prefill_blocks_scored(60);
  o.attention.set_prefill_blocks_attended(25);
  o.attention.set_kv_pages_considered(8);
  o.attention.set_kv_pages_read(2);
  o.attention.set_mean_support_tokens(12.5);
  o.attention.set_mean_tau_iterations(1.25);
  return o;
}

TEST(SummaryTest, HasTimesRatesAndShares) {
  EXPECT_THAT(Summary(MakeOutcome()),
              AllOf(HasSubstr("1000 tokens (200 cached), prefill 2.000 s, 400 tokens/s"),
                    HasSubstr("after 0.125 s"), HasSubstr("ended by stop_string, 20.0 tokens/s"),
                    HasSubstr("12.5 keys"), HasSubstr("1.25 tau iterations"),
                    HasSubstr("75.0% of blocks skipped, 40.0% never scored"),
                    HasSubstr("75.0% of KV pages skipped")));
}

TEST(SummaryTest, HasNoRateOfNothing) {
  Outcome o = MakeOutcome();
  o.usage.set_completion_tokens(1);
  o.attention.Clear();
  EXPECT_THAT(Summary(o), AllOf(HasSubstr("1 tokens, ended by stop_string\n"),
                                Not(HasSubstr("support")), Not(HasSubstr("nan"))));
}

TEST(ToJsonTest, HasEverything) {
  const nlohmann::ordered_json j = ToJson(MakeOutcome(), grpc::Status::OK);
  EXPECT_EQ(j["finish_reason"], "stop_string");
  EXPECT_EQ(j["stop_string"], "\n");
  EXPECT_EQ(j["usage"]["cached_prompt_tokens"], 200);
  EXPECT_EQ(j["timings"]["prefill_seconds"], 2.0);
  EXPECT_EQ(j["timings"]["decode_tokens_per_second"], 20.0);
  EXPECT_EQ(j["attention"]["prefill_blocks_attended"], 25);
  EXPECT_EQ(j["attention"]["prefill_blocks_never_scored_share"], 0.4);
  EXPECT_EQ(j["attention"]["kv_pages_skipped_share"], 0.75);
  EXPECT_FALSE(j.contains("candidates") || j.contains("prompt_logprobs"));
}

TEST(ToJsonTest, ListsCandidatesAndThePromptsLogprobs) {
  Outcome o = MakeOutcome();
  o.candidate(2).text = "third";
  o.candidates[2].finished.set_finish_reason(v1::FINISH_REASON_EOS_TOKEN);
  o.candidates[2].finished.set_stop_token_id(1);
  o.prompt_logprobs.resize(2);
  o.prompt_logprobs[1].set_token_id(7);
  o.prompt_logprobs[1].set_logprob(-0.5f);
  o.prompt_logprobs[1].set_rank(1);
  const nlohmann::ordered_json j = ToJson(o, grpc::Status::OK);
  EXPECT_EQ(j["text"], "hi");
  ASSERT_EQ(j["candidates"].size(), 3u);
  EXPECT_EQ(j["candidates"][0]["stop_string"], "\n");
  EXPECT_FALSE(j["candidates"][1].contains("finish_reason"));  // of which nothing is known
  EXPECT_EQ(j["candidates"][2]["index"], 2);
  EXPECT_EQ(j["candidates"][2]["text"], "third");
  EXPECT_EQ(j["candidates"][2]["stop_token_id"], 1);
  EXPECT_FALSE(j["prompt_logprobs"][0].contains("logprob"));
  EXPECT_EQ(j["prompt_logprobs"][1]["logprob"], -0.5);
  EXPECT_EQ(j["timings"]["decode_tokens_per_second"], 16.0);  // eight tokens in half a second
}

TEST(FailureTest, ExitCodes) {
  EXPECT_EQ(ExitCode(grpc::Status::OK), 0);
  EXPECT_EQ(ExitCode({grpc::StatusCode::INVALID_ARGUMENT, ""}), 1);
  EXPECT_EQ(ExitCode({grpc::StatusCode::DEADLINE_EXCEEDED, ""}), 1);
  EXPECT_EQ(ExitCode({grpc::StatusCode::UNAVAILABLE, ""}), 3);
}

TEST(FailureTest, NamesAreThoseOfGrpc) {
  EXPECT_STREQ(StatusName(grpc::StatusCode::CANCELLED), "CANCELLED");
  EXPECT_STREQ(StatusName(grpc::StatusCode::ALREADY_EXISTS), "ALREADY_EXISTS");
  EXPECT_STREQ(StatusName(grpc::StatusCode::RESOURCE_EXHAUSTED), "RESOURCE_EXHAUSTED");
  EXPECT_STREQ(StatusName(grpc::StatusCode::UNAUTHENTICATED), "UNAUTHENTICATED");
  EXPECT_STREQ(StatusName(static_cast<grpc::StatusCode>(99)), "UNKNOWN");
}

}  // namespace
}  // namespace tauserve::client
