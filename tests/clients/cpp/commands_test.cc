// The commands of tauserve-cli against a server that speaks the real API: what goes to standard
// output, what to standard error, and with which exit code.
#include "clients/cpp/commands.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>
#include <string>

#include "nlohmann/json.hpp"
#include "tests/clients/cpp/capture.h"
#include "tests/clients/cpp/fake_server.h"

namespace tauserve::client {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

constexpr char kService[] = "tauserve.inference.v1.InferenceService";

class CommandsTest : public testing::Test {
 protected:
  CommandsTest() {
    console_.out = out_.file();
    console_.err = err_.file();
  }
  int Generate() { return RunGenerate(client_, options_, console_); }
  nlohmann::json OutJson() { return nlohmann::json::parse(out_.text(), nullptr, false); }

  FakeServer server_;
  Client client_{server_.address()};
  Capture out_;
  Capture err_;
  Console console_;
  GenerateOptions options_;
};

TEST_F(CommandsTest, GenerateSeparatesTextFromTheRest) {
  server_.script().events = WholeStream();
  options_.prompted.input.set_text("q");
  EXPECT_EQ(Generate(), kOk);
  EXPECT_EQ(out_.text(), "The answer is 42\n");
  EXPECT_THAT(err_.text(), AllOf(HasSubstr("0/100 tokens\n"), HasSubstr("64/100 tokens"),
                                 HasSubstr("50 tokens/s"), HasSubstr("12.5 keys a row"),
                                 HasSubstr("75.0% of blocks skipped, 40.0% never scored")));
  EXPECT_EQ(server_.generate_request().input().text(), "q");
}

TEST_F(CommandsTest, GenerateWithoutStreamShowsTheSameText) {
  server_.script().events = WholeStream();
  options_.stream = options_.progress = options_.stats = false;
  EXPECT_EQ(Generate(), kOk);
  EXPECT_EQ(out_.text(), "The answer is 42\n");
  EXPECT_EQ(err_.text(), "");
}

TEST_F(CommandsTest, CandidatesAreShownOneAfterTheOther) {
  std::vector<v1::GenerateStreamResponse> events = WholeStream();
  v1::GenerateStreamResponse other = Delta("Perhaps 43", 3);
  other.mutable_delta()->set_index(1);
  events.insert(events.begin() + 3, other);
  server_.script().events = events;
  options_.prompted.input.mutable_sampling()->set_num_candidates(2);
  options_.progress = options_.stats = false;
  EXPECT_EQ(Generate(), kOk);
  EXPECT_EQ(out_.text(),
            "--- candidate 0 ---\nThe answer is 42\n--- candidate 1 ---\nPerhaps 43\n");
}

TEST_F(CommandsTest, OnATerminalTheBarIsRewrittenInPlace) {
  server_.script().events = WholeStream();
  console_.err_columns = 80;
  options_.stats = false;
  EXPECT_EQ(Generate(), kOk);
  const std::string shown = err_.text();
  EXPECT_THAT(shown, StartsWith("\r\033[Kprefill ["));
  EXPECT_EQ(std::count(shown.begin(), shown.end(), '\n'), 1);
}

TEST_F(CommandsTest, JsonIsOneObjectAndNothingElse) {
  server_.script().events = WholeStream();
  console_.json = true;
  options_.progress = false;
  EXPECT_EQ(Generate(), kOk);
  EXPECT_EQ(err_.text(), "");
  const nlohmann::json json = OutJson();
  EXPECT_EQ(json["request_id"], "r1");
  EXPECT_EQ(json["text"], "The answer is 42");
  EXPECT_EQ(json["finish_reason"], "eos_token");
  EXPECT_EQ(json["usage"]["completion_tokens"], 6);
  EXPECT_EQ(json["timings"]["prefill_tokens_per_second"], 50);
  EXPECT_EQ(json["timings"]["decode_tokens_per_second"], 10);
  EXPECT_EQ(json["attention"]["prefill_blocks_skipped_share"], 0.75);
  EXPECT_FALSE(json.contains("error"));
  EXPECT_FALSE(json.contains("matches"));
}

TEST_F(CommandsTest, ControlCharactersStayValidJson) {
  server_.script().events = {Started(1), Delta("a\"\\\n\x01"),
                             Finished(v1::FINISH_REASON_EOS_TOKEN), Completed(1, 1)};
  console_.json = true;
  EXPECT_EQ(Generate(), kOk);
  EXPECT_EQ(OutJson()["text"], "a\"\\\n\x01");
}

TEST_F(CommandsTest, AKnownAnswerDecidesTheExitCode) {
  server_.script().events = WholeStream();
  options_.prompted.expected = Prompt{"p-7", "q", "what?", "The answer is 42"};
  EXPECT_EQ(Generate(), kOk);
  EXPECT_THAT(err_.text(), HasSubstr("expected     The answer is 42: given\n"));
  options_.prompted.expected->answer = "The answer is 43";
  EXPECT_EQ(Generate(), kRefused);
  EXPECT_THAT(err_.text(), HasSubstr("The answer is 43: NOT given\n"));
}

TEST_F(CommandsTest, AChatSendsAllThatWasSaid) {
  server_.script().events = WholeStream();
  options_.stats = options_.progress = false;
  v1::ChatMessage* system = options_.prompted.input.mutable_chat()->add_messages();
  system->set_role("system");
  system->set_content("be brief");
  std::istringstream in("what?\n\nand then?\n");
  EXPECT_EQ(RunChat(client_, options_, in, console_), kOk);
  EXPECT_EQ(out_.text(), "The answer is 42\nThe answer is 42\n");
  const v1::GenerateStreamRequest request = server_.generate_request();
  std::string sent;
  for (const v1::ChatMessage& m : request.input().chat().messages()) {
    sent += m.role() + ": " + m.content() + "\n";
  }
  EXPECT_EQ(sent, "system: be brief\nuser: what?\nassistant: The answer is 42\nuser: and then?\n");
}

TEST_F(CommandsTest, AChatForgetsWhatWasRefused) {
  server_.script().status = grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "too long");
  std::istringstream in("what?\nand?\n");
  EXPECT_EQ(RunChat(client_, options_, in, console_), kRefused);
  EXPECT_EQ(server_.generate_request().input().chat().messages_size(), 1);
  EXPECT_THAT(err_.text(), HasSubstr("INVALID_ARGUMENT: too long"));
}

TEST_F(CommandsTest, AKnownAnswerInJson) {
  server_.script().events = WholeStream();
  console_.json = true;
  options_.prompted.expected = Prompt{"p-7", "q", "what?", "The answer is 42"};
  EXPECT_EQ(Generate(), kOk);
  EXPECT_EQ(OutJson()["prompt_id"], "p-7");
  EXPECT_EQ(OutJson()["matches"], true);
}

TEST_F(CommandsTest, ARefusalIsOneLine) {
  server_.script().status = QueueIsFull(0.5);
  EXPECT_EQ(Generate(), kRefused);
  EXPECT_EQ(out_.text(), "");
  EXPECT_EQ(err_.text(),
            "tauserve-cli: RESOURCE_EXHAUSTED: the queue is full (try again in 0.50 s)\n");
}

TEST_F(CommandsTest, ARefusalInJsonIsAnObjectAsWell) {
  server_.script().status = QueueIsFull(0.5);
  console_.json = true;
  EXPECT_EQ(Generate(), kRefused);
  EXPECT_EQ(OutJson()["error"]["status"], "RESOURCE_EXHAUSTED");
  EXPECT_EQ(OutJson()["error"]["retry_delay_seconds"], 0.5);
}

TEST_F(CommandsTest, AMessageOfSeveralLinesIsShownOnOne) {
  server_.script().status = grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "bad\nvery\r\nbad");
  EXPECT_EQ(RunLoad(client_, console_), kRefused);
  EXPECT_EQ(err_.text(), "tauserve-cli: INVALID_ARGUMENT: bad very  bad\n");
}

TEST_F(CommandsTest, WhatIsCutOffShowsHowFarItGot) {
  server_.script().events = {Started(100), Progress(64, 100), Delta("The", 2)};
  server_.script().status = grpc::Status(grpc::StatusCode::INTERNAL, "request r1 failed");
  options_.progress = false;
  EXPECT_EQ(Generate(), kRefused);
  EXPECT_EQ(out_.text(), "The\n");
  EXPECT_THAT(err_.text(), AllOf(HasSubstr("100 of 100 prompt tokens read, 2 generated\n"),
                                 HasSubstr("INTERNAL: request r1 failed\n")));
}

TEST_F(CommandsTest, CancelInPrefillShowsHowFarItGot) {
  server_.script().events = {Started(100), Progress(64, 100)};
  server_.script().stay_open = true;
  options_.progress = false;
  Client hasty(server_.address(), Client::Duration(200));
  EXPECT_EQ(RunGenerate(hasty, options_, console_), kRefused);
  EXPECT_THAT(err_.text(), AllOf(HasSubstr(" of 100 prompt tokens read, 0 generated\n"),
                                 HasSubstr("DEADLINE_EXCEEDED: ")));
  server_.WaitForCancel();
}

TEST_F(CommandsTest, TokenizeAndDetokenize) {
  v1::TokenizeRequest request;
  request.set_text("ab");
  EXPECT_EQ(RunTokenize(client_, request, console_), kOk);
  EXPECT_EQ(out_.text(), "     97  a\n     98  b\n");
  v1::DetokenizeRequest back;
  back.add_token_ids('h');
  back.add_token_ids('i');
  EXPECT_EQ(RunDetokenize(client_, back, console_), kOk);
  EXPECT_THAT(out_.text(), HasSubstr("\nhi\n"));
}

TEST_F(CommandsTest, TokenizeInJson) {
  console_.json = true;
  v1::TokenizeRequest request;
  request.set_text("ab");
  EXPECT_EQ(RunTokenize(client_, request, console_), kOk);
  EXPECT_EQ(OutJson(), nlohmann::json::parse(
                           R"({"count": 2, "token_ids": [97, 98], "token_strings": ["a", "b"]})"));
}

TEST_F(CommandsTest, InfoOfTheModelAlone) {
  EXPECT_EQ(RunInfo(client_, nullptr, console_), kOk);
  EXPECT_EQ(OutJson()["model"], "fake");
  EXPECT_EQ(OutJson()["entmax_alpha"], (nlohmann::json{1.5, 2.0}));
  EXPECT_FALSE(OutJson().contains("version"));
}

TEST_F(CommandsTest, InfoOfModelAndServer) {
  EXPECT_EQ(RunInfo(client_, &client_, console_), kOk);
  EXPECT_EQ(OutJson()["version"], "9.8.7");
  EXPECT_EQ(OutJson()["uptime_seconds"], 0.25);
}

TEST_F(CommandsTest, Load) {
  EXPECT_EQ(RunLoad(client_, console_), kOk);
  EXPECT_EQ(OutJson()["running_requests"], 3);
  EXPECT_EQ(OutJson()["kv_cache_usage_ratio"], 0.5);
}

TEST_F(CommandsTest, HealthIsAnExitCode) {
  EXPECT_EQ(RunHealth(client_, kService, absl::ZeroDuration(), console_), kOk);
  server_.SetReady(false);
  EXPECT_EQ(RunHealth(client_, kService, absl::ZeroDuration(), console_), kRefused);
  EXPECT_EQ(out_.text(), "SERVING\nNOT_SERVING\n");
  Client nobody("127.0.0.1:1");
  EXPECT_EQ(RunHealth(nobody, kService, absl::ZeroDuration(), console_), kUnreachable);
  EXPECT_THAT(err_.text(), HasSubstr("UNAVAILABLE"));
}

TEST_F(CommandsTest, AbortAndDrain) {
  EXPECT_EQ(RunAbort(client_, {"r1", "r2"}, console_), kOk);
  EXPECT_THAT(server_.abort_request().request_ids(), ElementsAre("r1", "r2"));
  EXPECT_EQ(RunDrain(client_, absl::Milliseconds(1500), console_), kOk);
  EXPECT_EQ(server_.drain_request().timeout().seconds(), 1);
  EXPECT_EQ(server_.drain_request().timeout().nanos(), 500'000'000);
  EXPECT_EQ(out_.text(), "r1\nr2\naborted 2 requests\n");
}

}  // namespace
}  // namespace tauserve::client
