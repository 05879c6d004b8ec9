// Runs against a server that speaks the real API and does what a test tells it. Nothing here depends
// on how fast the machine is.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "clients/cpp/bench/bench.h"
#include "clients/cpp/bench/bench_report.h"
#include "clients/cpp/failure.h"
#include "nlohmann/json.hpp"
#include "tests/clients/cpp/capture.h"
#include "tests/clients/cpp/fake_server.h"

namespace tauserve::bench {
namespace {

using client::FakeServer;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class RunTest : public testing::Test {
 protected:
  RunTest() {
    console_.program = "tauserve-bench";
    console_.out = out_.file();
    console_.err = err_.file();
    settings_.prompt_tokens = *LengthDistribution::Parse("100");
    settings_.output_tokens = *LengthDistribution::Parse("5");
    settings_.max_concurrency = 4;
    settings_.num_requests = 10;
    settings_.percentiles = {50, 99};
    server_.script().events = client::WholeStream();
  }

  Runner& MakeRunner() {
    Runner::Options options;
    options.address = server_.address();
    options.timeout = timeout_;
    options.connections = settings_.connections;
    options.retries = settings_.retries;
    options.give_up_after = settings_.give_up_after;
    runner_ = std::make_unique<Runner>(std::move(options));
    return *runner_;
  }
  int Run() {
    client::Client client(server_.address());
    return RunBench(settings_, server_.address(), client, MakeRunner(), console_);
  }
  // Evenly spaced, `rate` a second.
  static Pacer OpenLoop(double rate, uint64_t count, uint32_t max_concurrency) {
    Pacer::Options options;
    options.arrivals.emplace(RateCurve{rate, rate, 0, 0}, std::numeric_limits<double>::infinity(),
                             0);
    options.num_requests = count;
    options.max_concurrency = max_concurrency;
    return Pacer(std::move(options));
  }
  Workload MakeWorkload() {
    Workload::Source source;
    source.vocab_size = 256;
    source.max_context_tokens = 4096;
    return *Workload::Make(settings_, std::move(source));
  }

  FakeServer server_;
  Settings settings_;
  std::optional<client::Client::Duration> timeout_;
  std::unique_ptr<Runner> runner_;
  client::Capture out_, err_;
  client::Console console_;
};

TEST_F(RunTest, EveryRequestIsMadeAndReported) {
  settings_.warmup_requests = 3;
  settings_.connections = 2;
  settings_.goodput = *GoodputLimits::Parse({"e2e:1h"});
  EXPECT_EQ(Run(), client::kOk);
  EXPECT_EQ(server_.generate_count(), 13);
  EXPECT_EQ(err_.text(), "");
  EXPECT_THAT(out_.text(),
              AllOf(HasSubstr("fake, alpha 1.5 to 2"), HasSubstr("closed loop, 4 users"),
                    HasSubstr("10 ok, 0 failed"), HasSubstr("eos_token 10"),
                    HasSubstr("100.0% within all limits"), HasSubstr("time to first token"),
                    HasSubstr("tokens       1000 of prompts (0.0% cached), 50 of output in 20"),
                    HasSubstr("support      12.5 keys a row"),
                    HasSubstr("75.0% of blocks skipped, 40.0% never scored")));
}

TEST_F(RunTest, JsonHasSettingsSummaryAndRequests) {
  settings_.json_file = testing::TempDir() + "/bench_" + std::to_string(getpid()) + ".json";
  settings_.records = true;
  EXPECT_EQ(Run(), client::kOk);
  std::ifstream file(settings_.json_file);
  const nlohmann::json json = nlohmann::json::parse(file, nullptr, false);
  std::remove(settings_.json_file.c_str());
  EXPECT_EQ(json["settings"]["loop"], "closed");
  EXPECT_EQ(json["server"]["model"], "fake");
  EXPECT_EQ(json["ended_early"], false);
  const nlohmann::json& summary = json["summary"];
  EXPECT_EQ(summary["ok"], 10);
  EXPECT_EQ(summary["output_tokens"], 50);
  EXPECT_EQ(summary["latency_seconds"]["itl"]["count"], 40);
  EXPECT_EQ(summary["latency_seconds"]["ttft"]["quantiles"].size(), 101);
  EXPECT_EQ(summary["latency_seconds"]["ttft"]["quantiles"][100],
            summary["latency_seconds"]["ttft"]["max"]);
  ASSERT_EQ(json["requests"].size(), 10);
  for (const nlohmann::json& request : json["requests"]) {
    EXPECT_EQ(request["gaps"].size(), 4);
    EXPECT_LE(request["intended"], request["sent"]);
    EXPECT_LE(request["sent"], request["first_token"]);
    EXPECT_LE(request["first_token"], request["end"]);
  }
}

TEST_F(RunTest, AFileThatCannotBeWrittenIsFoundBeforeTheRun) {
  settings_.json_file = "/nonexistent/bench.json";
  EXPECT_EQ(Run(), client::kUsage);
  EXPECT_THAT(err_.text(), HasSubstr("--json: /nonexistent/bench.json cannot be written"));
  EXPECT_EQ(server_.generate_count(), 0);
}

TEST_F(RunTest, ProgressEndsWithAllRequests) {
  settings_.progress = true;
  EXPECT_EQ(Run(), client::kOk);
  EXPECT_THAT(err_.text(),
              HasSubstr("bench [##############################] 10/10 done, 0 in flight"));
}

// One is in flight at most, and each takes until its deadline: the others are late, and it is seen.
TEST_F(RunTest, LatenciesCountFromTheIntendedTime) {
  server_.script().stay_open = true;
  timeout_ = std::chrono::milliseconds(200);
  const RunResult result = MakeRunner().Run(
      OpenLoop(/*rate=*/100, /*count=*/3, /*max_concurrency=*/1), MakeWorkload(), 0, nullptr);
  ASSERT_EQ(result.records.size(), 3);
  for (int i = 0; i < 3; i++) {
    const RequestRecord& r = result.records[i];
    EXPECT_EQ(r.status, "DEADLINE_EXCEEDED");
    EXPECT_DOUBLE_EQ(r.intended, (i + 1) / 100.0);
    EXPECT_GE(r.EndToEnd(), 0.19 * (i + 1) - 0.01 * i);
    EXPECT_GE(r.sent, r.ready);
    const double free = i > 0 ? result.records[i - 1].end : 0;
    EXPECT_GE(r.SendLag(), free - r.intended);
  }
  EXPECT_DOUBLE_EQ(result.seconds, result.records[2].end);
}

TEST_F(RunTest, AnOpenLoopDoesNotWaitForTheServer) {
  server_.script().stay_open = true;
  Runner& runner = MakeRunner();
  // No request ends before all have been sent.
  std::thread waits([&] {
    while (server_.generate_count() < 20) std::this_thread::yield();
    EXPECT_TRUE(runner.Interrupt());
  });
  const RunResult result = runner.Run(OpenLoop(1000, 20, 0), MakeWorkload(), 0, nullptr);
  waits.join();
  ASSERT_EQ(result.records.size(), 20);
  for (const RequestRecord& r : result.records) EXPECT_TRUE(r.interrupted);
}

TEST_F(RunTest, InterruptReportsWhatWasMeasured) {
  server_.script().stay_open = true;
  client::Client client(server_.address());
  Runner& runner = MakeRunner();
  std::thread waits([&] {
    while (server_.generate_count() < 4) std::this_thread::yield();
    runner.Interrupt();
  });
  const int code = RunBench(settings_, server_.address(), client, runner, console_);
  waits.join();
  EXPECT_EQ(code, client::kOk) << "main says 130";
  EXPECT_THAT(out_.text(), AllOf(HasSubstr("0 ok, 0 failed, 4 interrupted"),
                                 HasSubstr("the run was ended early")));
  EXPECT_EQ(server_.generate_count(), 4) << "nothing was sent afterwards";
}

TEST_F(RunTest, RefusalsAreCountedAndNoFailureOfTheRun) {
  server_.script().refuse_first = 3;
  EXPECT_EQ(Run(), client::kOk);
  EXPECT_EQ(server_.generate_count(), 10);
  EXPECT_THAT(out_.text(), AllOf(HasSubstr("7 ok, 3 failed"),
                                 HasSubstr("RESOURCE_EXHAUSTED 3, such as: the queue is full")));
}

TEST_F(RunTest, RefusalsAreSentAgainIfAskedFor) {
  server_.script().refuse_first = 3;
  settings_.retries = 3;
  EXPECT_EQ(Run(), client::kOk);
  EXPECT_EQ(server_.generate_count(), 13);
  EXPECT_THAT(out_.text(), HasSubstr("10 ok, 0 failed, 3 sent again"));
}

TEST_F(RunTest, OtherFailuresAreTheRunsFailure) {
  server_.script().status = grpc::Status(grpc::StatusCode::INTERNAL, "broken\nin two");
  client::Client client(server_.address());
  // GetModel fails as well, so no load is made at all.
  EXPECT_EQ(RunBench(settings_, server_.address(), client, MakeRunner(), console_),
            client::kRefused);
  EXPECT_EQ(err_.text(), "tauserve-bench: INTERNAL: broken in two\n");
  EXPECT_EQ(server_.generate_count(), 0);
}

TEST_F(RunTest, AServerThatDiesEndsTheRun) {
  server_.script().stay_open = true;
  settings_.num_requests = 1'000'000;
  settings_.give_up_after = 6;
  std::thread kills([&] {
    while (server_.generate_count() < 4) std::this_thread::yield();
    server_.Shutdown();
  });
  const int code = Run();
  kills.join();
  EXPECT_EQ(code, client::kUnreachable);
  EXPECT_THAT(out_.text(), AllOf(HasSubstr("0 ok"), HasSubstr("UNAVAILABLE"),
                                 HasSubstr("gave up      6 requests in a row found no server"),
                                 Not(HasSubstr("time to first token"))));
}

TEST_F(RunTest, NoServer) {
  client::Client client("127.0.0.1:1");
  EXPECT_EQ(RunBench(settings_, "127.0.0.1:1", client, MakeRunner(), console_),
            client::kUnreachable);
  EXPECT_THAT(err_.text(), testing::StartsWith("tauserve-bench: UNAVAILABLE: "));
  EXPECT_EQ(out_.text(), "");
}

TEST_F(RunTest, NoMetrics) {
  settings_.metrics = "127.0.0.1:1";
  EXPECT_EQ(Run(), client::kUnreachable);
  EXPECT_EQ(err_.text(),
            "tauserve-bench: UNAVAILABLE: --metrics: http://127.0.0.1:1/metrics: no connection\n");
  settings_.metrics = "http://127.0.0.1:1/metrics";
  EXPECT_EQ(Run(), client::kUsage);
  EXPECT_THAT(err_.text(), HasSubstr("--metrics: 'http://127.0.0.1:1/metrics' is not HOST:PORT"));
  EXPECT_EQ(server_.generate_count(), 0);
}

TEST_F(RunTest, ProgressLineTellsWhatIsLeft) {
  settings_.num_requests = 100;
  RunProgress progress;
  progress.seconds = 10;
  progress.done = 25;
  progress.failed = 2;
  progress.in_flight = 4;
  progress.output_tokens = 500;
  EXPECT_EQ(RunProgressLine(settings_, progress, 100),
            "bench [#######-----------------------] 25/100 done, 4 in flight, 2 failed, "
            "50 tokens/s, 30 s left");
  EXPECT_LT(RunProgressLine(settings_, progress, 80).size(), 80);
  settings_.duration = 20;  // ends first
  EXPECT_THAT(RunProgressLine(settings_, progress, 100), HasSubstr(", 10 s left"));
}

}  // namespace
}  // namespace tauserve::bench
