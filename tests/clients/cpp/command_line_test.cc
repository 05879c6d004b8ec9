// The command line of tauserve-cli: what is read from it, and what is refused.
#include "clients/cpp/command_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/reflection.h"
#include "clients/cpp/flags.h"

namespace tauserve::client {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class CommandLineTest : public testing::Test {
 protected:
  static CommandLine Parse(const std::vector<std::string>& words) {
    const absl::StatusOr<CommandLine> line = ParseCommandLine(CliProgram(), words);
    EXPECT_TRUE(line.ok()) << line.status();
    return line.ok() ? *line : CommandLine();
  }
  static std::string Error(const std::vector<std::string>& words) {
    const absl::StatusOr<CommandLine> line = ParseCommandLine(CliProgram(), words);
    EXPECT_FALSE(line.ok()) << testing::PrintToString(words);
    return std::string(line.status().message());
  }
  absl::FlagSaver saver_;  // flags belong to the process
};

TEST_F(CommandLineTest, CommandArgumentsAndFlagsInAnyOrder) {
  const CommandLine line = Parse({"--server=h:1", "generate", "a prompt", "--temperature", "0.5",
                                  "--seed=18446744073709551615"});
  EXPECT_EQ(line.command, "generate");
  EXPECT_THAT(line.arguments, ElementsAre("a prompt"));
  EXPECT_EQ(absl::GetFlag(FLAGS_server), "h:1");
  EXPECT_EQ(absl::GetFlag(FLAGS_temperature), 0.5f);
  EXPECT_EQ(absl::GetFlag(FLAGS_seed), 18446744073709551615u);
  EXPECT_EQ(absl::GetFlag(FLAGS_top_k), absl::nullopt) << "not given, so unset";
}

TEST_F(CommandLineTest, Switches) {
  absl::SetFlag(&FLAGS_stream, false);
  Parse({"generate", "--stream", "--no-progress", "--nostats", "--json=true"});
  EXPECT_TRUE(absl::GetFlag(FLAGS_stream));
  EXPECT_FALSE(absl::GetFlag(FLAGS_progress));
  EXPECT_FALSE(absl::GetFlag(FLAGS_stats));
  EXPECT_TRUE(absl::GetFlag(FLAGS_json));
  Parse({"generate", "--json=false"});
  EXPECT_FALSE(absl::GetFlag(FLAGS_json));
  // A switch takes no second word.
  EXPECT_THAT(Parse({"generate", "--json", "false"}).arguments, ElementsAre("false"));
}

TEST_F(CommandLineTest, StopIsRepeatableAndKeepsCommas) {
  EXPECT_THAT(Parse({"generate", "--stop=a,b", "--stop", "\n\n", "--stop="}).stop,
              ElementsAre("a,b", "\n\n", ""));
  EXPECT_THAT(Parse({"generate"}).stop, IsEmpty());
}

TEST_F(CommandLineTest, WhatFollowsTwoDashesIsNoFlag) {
  EXPECT_THAT(Parse({"generate", "--", "--not-a-flag"}).arguments, ElementsAre("--not-a-flag"));
  EXPECT_THAT(Parse({"generate", "-"}).arguments, ElementsAre("-"));
}

TEST_F(CommandLineTest, NegativeValuesAreValues) {
  Parse({"generate", "--temperature", "-1", "--presence_penalty=-2"});
  EXPECT_EQ(absl::GetFlag(FLAGS_temperature), -1.0f);
  EXPECT_EQ(absl::GetFlag(FLAGS_presence_penalty), -2.0f);
}

TEST_F(CommandLineTest, RefusesWithTheWordThatIsWrong) {
  EXPECT_EQ(Error({}), "no command");
  EXPECT_EQ(Error({"--json"}), "no command");
  EXPECT_EQ(Error({"dance"}), "unknown command 'dance'");
  EXPECT_EQ(Error({"generate", "--tempratur=1"}), "unknown flag --tempratur=1");
  EXPECT_EQ(Error({"generate", "--notemperature"}), "unknown flag --notemperature");
  EXPECT_EQ(Error({"generate", "--seed"}), "--seed needs a value");
  EXPECT_EQ(Error({"load", "--temperature=1"}), "load takes no --temperature");
  EXPECT_EQ(Error({"load", "--stop=x"}), "load takes no --stop");
  EXPECT_THAT(Error({"generate", "--temperature=hot"}), HasSubstr("hot"));
  EXPECT_THAT(Error({"generate", "--top_k=-1"}), HasSubstr("-1"));
  EXPECT_THAT(Error({"generate", "--max_new_tokens=4294967296"}), HasSubstr("4294967296"));
  EXPECT_THAT(Error({"health", "--wait=5"}), HasSubstr("--wait"));
  // Abseil's own flags are none of ours.
  EXPECT_EQ(Error({"generate", "--flagfile=/etc/passwd"}), "unknown flag --flagfile=/etc/passwd");
}

TEST_F(CommandLineTest, HelpAndVersionNeedNothingElse) {
  EXPECT_TRUE(Parse({"--help"}).help);
  EXPECT_TRUE(Parse({"-h"}).help);
  EXPECT_TRUE(Parse({"help"}).help);
  EXPECT_EQ(Parse({"help", "load"}).command, "load");
  EXPECT_TRUE(Parse({"generate", "--help"}).help);
  EXPECT_TRUE(Parse({"--version"}).version);
}

TEST_F(CommandLineTest, HelpShowsEveryFlagOfTheCommandAndNoOther) {
  const std::string all = HelpText(CliProgram(), "");
  for (const CommandSpec& command : CliProgram().commands) {
    EXPECT_THAT(all, HasSubstr(command.name));
    const std::string help = HelpText(CliProgram(), command.name);
    for (const char* flag : command.flags) EXPECT_THAT(help, HasSubstr(std::string("--") + flag));
    for (const char* flag : CliProgram().common_flags)
      EXPECT_THAT(help, HasSubstr(std::string("--") + flag));
  }
  EXPECT_THAT(HelpText(CliProgram(), "load"), testing::Not(HasSubstr("--temperature")));
}

}  // namespace
}  // namespace tauserve::client
