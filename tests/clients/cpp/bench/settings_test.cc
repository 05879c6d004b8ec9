// The flags of tauserve-bench: what they mean together, and what is refused.
#include "clients/cpp/bench/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "absl/flags/reflection.h"

namespace tauserve::bench {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class SettingsTest : public testing::Test {
 protected:
  static absl::StatusOr<Settings> Read(const std::vector<std::string>& words) {
    absl::FlagSaver saver;
    const auto line = client::ParseCommandLine(BenchProgram(), words);
    if (!line.ok()) return line.status();
    return ReadSettings(*line);
  }
  static Settings Good(const std::vector<std::string>& words) {
    const absl::StatusOr<Settings> settings = Read(words);
    EXPECT_TRUE(settings.ok()) << settings.status();
    return settings.ok() ? *settings : Settings();
  }
  static std::string Error(const std::vector<std::string>& words) {
    const absl::StatusOr<Settings> settings = Read(words);
    EXPECT_FALSE(settings.ok()) << testing::PrintToString(words);
    return std::string(settings.status().message());
  }
};

TEST_F(SettingsTest, WithoutFlagsAClosedLoopOfAHundredRequests) {
  const Settings s = Good({});
  EXPECT_FALSE(s.rate.has_value());
  EXPECT_EQ(s.max_concurrency, 8);
  EXPECT_EQ(s.num_requests, 100);
  EXPECT_TRUE(std::isinf(s.duration));
  EXPECT_THAT(s.percentiles, ElementsAre(50, 90, 95, 99));
  EXPECT_EQ(DescribeLoad(s), "closed loop, 8 users");
  EXPECT_EQ(DescribeRequests(Good({"--seed=7"})),
            "prompts of 256 tokens, random; output 64; seed 7");
  EXPECT_NE(Good({}).seed, Good({}).seed) << "2^-32 by chance";
}

TEST_F(SettingsTest, ARateMakesAnOpenLoop) {
  const Settings s = Good({"--rate=4", "--duration=30s"});
  EXPECT_EQ(s.rate->first, 4);
  EXPECT_EQ(s.max_concurrency, 0);
  EXPECT_EQ(s.duration, 30);
  EXPECT_EQ(s.num_requests, std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(DescribeLoad(s), "open loop, 4 requests/s (Poisson)");
  EXPECT_EQ(DescribeLoad(Good({"--rate=4", "--burstiness=inf", "--max_concurrency=3"})),
            "open loop, 4 requests/s (evenly spaced), at most 3 in flight");
}

TEST_F(SettingsTest, ARampFillsTheRun) {
  EXPECT_EQ(Good({"--ramp=1:9", "--duration=1m"}).rate->ramp_seconds, 60);
  EXPECT_EQ(Good({"--ramp=1:9:3", "--num_requests=50"}).rate->ramp_seconds, 10);
  EXPECT_EQ(DescribeLoad(Good({"--ramp=1:9:3", "--num_requests=50"})),
            "open loop, 1 to 9 requests/s in 10 s and 3 steps (Poisson)");
}

TEST_F(SettingsTest, LimitsOfGoodput) {
  const Settings s = Good({"--goodput=ttft:500ms,itl:50ms,e2e:5s"});
  EXPECT_EQ(s.goodput.ttft, 0.5);
  EXPECT_EQ(s.goodput.itl, 0.05);
  EXPECT_EQ(s.goodput.e2e, 5);
  EXPECT_FALSE(s.goodput.tpot.has_value());
  EXPECT_EQ(SettingsJson(s)["goodput_limits_seconds"].dump(),
            R"({"ttft":0.5,"itl":0.05,"e2e":5.0})");
}

TEST_F(SettingsTest, FieldsOfTheApiReachTheRequests) {
  const Settings s = Good({"--temperature=0", "--priority=3", "--ignore_eos", "--salt=x"});
  EXPECT_EQ(s.parameters.sampling().temperature(), 0);
  EXPECT_EQ(s.parameters.scheduling().priority(), 3);
  EXPECT_TRUE(s.parameters.stopping().ignore_eos());
  EXPECT_EQ(SettingsJson(s)["parameters"]["cache"]["salt"], "x");
}

TEST_F(SettingsTest, InfinityIsWrittenAsAWord) {
  EXPECT_EQ(SettingsJson(Good({"--rate=1", "--burstiness=inf"}))["burstiness"], "inf");
  EXPECT_EQ(SettingsJson(Good({"--rate=1"}))["burstiness"], 1.0);
}

TEST_F(SettingsTest, RefusesWithTheFlagThatIsWrong) {
  const std::pair<std::vector<std::string>, const char*> wrong[] = {
      {{"fast"}, "takes no arguments, but got 'fast'"},
      {{"--rate=0"}, "--rate is 0, must be finite and over 0"},
      {{"--rate=inf"}, "--rate is inf"},
      {{"--rate=1", "--ramp=1:2"}, "--rate or --ramp, not both"},
      {{"--ramp=1"}, "--ramp: '1' is no ramp"},
      {{"--burstiness=0", "--rate=1"}, "--burstiness is 0, must be over 0"},
      {{"--burstiness=2"}, "--burstiness needs --rate or --ramp"},
      {{"--max_concurrency=0"}, "--max_concurrency is 0"},
      {{"--num_requests=0"}, "--num_requests is 0"},
      {{"--duration=0s"}, "--duration is 0, must be over 0"},
      {{"--duration=5"}, "--duration"},
      {{"--connections=0"}, "--connections is 0, must be in [1, 1000]"},
      {{"--prompt_tokens=x"}, "--prompt_tokens: 'x' is no length"},
      {{"--output_tokens=0"}, "--output_tokens: '0' is no length"},
      {{"--num_prefixes=0"}, "--num_prefixes is 0"},
      {{"--prompts=a", "--text=b"}, "--prompts or --text, not both"},
      {{"--prompts=a", "--prefix_tokens=5"}, "--prefix_tokens is for prompts that are made"},
      {{"--goodput=ttft:5"}, "--goodput: 'ttft:5' is no limit"},
      {{"--goodput=speed:5s"}, "--goodput: 'speed:5s' is no limit"},
      {{"--goodput=ttft:5s,ttft:6s"}, "--goodput: ttft has two limits"},
      {{"--percentiles=50,101"}, "--percentiles: '101' is not in [0, 100]"},
      {{"--percentiles="}, "--percentiles: at least one"},
      {{"--records"}, "--records needs --json=FILE"},
      {{"--json_schema={}", "--json_object"}, "one only"},
      {{"--num_candidates=2"}, "unknown flag --num_candidates"},
      {{"--max_new_tokens=2"}, "unknown flag --max_new_tokens"},
      {{"--flagfile=x"}, "unknown flag --flagfile=x"},
  };
  for (const auto& [words, why] : wrong) EXPECT_THAT(Error(words), HasSubstr(why));
}

TEST_F(SettingsTest, HelpShowsEveryFlag) {
  const std::string help = HelpText(BenchProgram(), "");
  for (const char* flag : BenchProgram().commands[0].flags) {
    EXPECT_THAT(help, HasSubstr(std::string("--") + flag));
  }
  EXPECT_THAT(help, testing::AllOf(HasSubstr("--tls_ca"), HasSubstr("Exit codes: 0")));
}

}  // namespace
}  // namespace tauserve::bench
