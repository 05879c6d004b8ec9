// What the command-line client shows and reads, without a server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "clients/cpp/client.h"
#include "clients/cpp/progress_bar.h"
#include "clients/cpp/prompt_file.h"
#include "clients/cpp/report.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace tauserve::client {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(ProgressBarTest, ShowsShareRateAndTimeLeft) {
  EXPECT_EQ(ProgressLine(0, 100, 0), "prefill [------------------------------] 0/100 tokens");
  EXPECT_EQ(ProgressLine(50, 100, 2),
            "prefill [###############---------------] 50/100 tokens, 25 tokens/s, 2.0 s left");
  EXPECT_EQ(ProgressLine(100, 100, 4),
            "prefill [##############################] 100/100 tokens, 25 tokens/s");
  EXPECT_THAT(ProgressLine(0, 0, 1), HasSubstr("0/0 tokens"));
}

class PromptFileTest : public testing::Test {
 protected:
  std::string Write(const std::string& text) {
    file_ = testing::TempDir() + "/prompts_" + std::to_string(getpid()) + ".jsonl";
    std::ofstream(file_) << text;
    return file_;
  }
  void TearDown() override { std::remove(file_.c_str()); }
  std::string file_;
};

TEST_F(PromptFileTest, FindsByIdOrTakesTheFirst) {
  const std::string file = Write(
      "{\"id\": \"a\", \"prompt\": \"p1\", \"answer\": \"x\"}\n\n"
      "{\"id\": \"b\", \"prompt\": \"p2\", \"answer\": \"y z\", \"question\": \"q?\"}\n");
  EXPECT_EQ(ReadPrompt(file, "")->text, "p1");
  const auto b = ReadPrompt(file, "b");
  ASSERT_TRUE(b.ok());
  EXPECT_EQ(b->question, "q?");
  EXPECT_TRUE(AnswerMatches(*b, " y z\n"));
  EXPECT_FALSE(AnswerMatches(*b, "y"));
  EXPECT_THAT(std::string(ReadPrompt(file, "c").status().message()),
              AllOf(HasSubstr(file), HasSubstr("'c'")));
}

TEST_F(PromptFileTest, NamesTheBrokenLine) {
  const std::string file = Write("{\"id\": \"a\", \"prompt\": \"p\"}\n{broken\n");
  EXPECT_THAT(std::string(ReadPrompt(file, "z").status().message()), HasSubstr(":2:"));
  EXPECT_EQ(ReadPrompt("/nonexistent", "").status().code(), absl::StatusCode::kNotFound);
}

Outcome MakeOutcome() {
  Outcome o;
  o.request_id = "r1";
  o.text = "hi";
  o.finished.set_finish_reason(v1::FINISH_REASON_EOS_TOKEN);
  o.usage.set_prompt_tokens(1000);
  o.usage.set_cached_prompt_tokens(200);
  o.usage.set_completion_tokens(11);
  o.timings.mutable_prefill()->set_seconds(2);
  o.timings.mutable_decode()->set_nanos(500'000'000);
  o.attention.set_keys_considered(10);
  o.attention.set_prefill_blocks_considered(100);
  o.attention.set_prefill_blocks_scored(60);
  o.attention.set_prefill_blocks_attended(25);
  o.attention.set_mean_support_tokens(12.5);
  return o;
}

TEST(ReportTest, SummaryHasRatesAndShares) {
  EXPECT_THAT(Summary(MakeOutcome()),
              AllOf(HasSubstr("1000 tokens (200 cached)"), HasSubstr("400 tokens/s"),
                    HasSubstr("ended by eos_token, 20.0 tokens/s"), HasSubstr("12.5 keys"),
                    HasSubstr("75.0% of blocks skipped"), HasSubstr("40.0% without")));
}

TEST(ReportTest, JsonHasEverything) {
  const nlohmann::ordered_json j = ToJson(MakeOutcome());
  EXPECT_EQ(j["text"], "hi");
  EXPECT_EQ(j["finish_reason"], "eos_token");
  EXPECT_EQ(j["usage"]["cached_prompt_tokens"], 200);
  EXPECT_EQ(j["timings"]["prefill_seconds"], 2.0);
  EXPECT_EQ(j["attention"]["prefill_blocks_attended"], 25);
}

TEST(RetryDelayTest, ReadsTheStatusDetails) {
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(1);
  retry.mutable_retry_delay()->set_nanos(250'000'000);
  google::rpc::Status details;
  details.add_details()->PackFrom(retry);
  const grpc::Status status(grpc::StatusCode::RESOURCE_EXHAUSTED, "full",
                            details.SerializeAsString());
  EXPECT_EQ(RetryDelayOf(status), std::chrono::milliseconds(1250));
  EXPECT_EQ(RetryDelayOf(grpc::Status(grpc::StatusCode::INTERNAL, "x")), std::nullopt);
}

}  // namespace
}  // namespace tauserve::client
