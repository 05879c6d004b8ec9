#include "server/observability/logs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <sstream>
#include <string>
#include <vector>

namespace tauserve {
namespace {

using testing::HasSubstr;

// The JSON lines that `write` puts on stderr.
std::vector<nlohmann::json> Lines(const std::function<void()>& write) {
  testing::internal::CaptureStderr();
  write();
  std::istringstream text(testing::internal::GetCapturedStderr());
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

TEST(LogsTest, OneLineWithTimeLevelEventAndFields) {
  ASSERT_TRUE(InitializeLogs("info").ok());
  const auto lines = Lines([] { LogWarning("something", {{"a", 1}, {"b", "two"}}); });
  ASSERT_EQ(lines.size(), 1);
  EXPECT_EQ(lines[0]["level"], "warning");
  EXPECT_EQ(lines[0]["event"], "something");
  EXPECT_EQ(lines[0]["a"], 1);
  EXPECT_EQ(lines[0]["b"], "two");
  EXPECT_THAT(lines[0]["time"].get<std::string>(),
              testing::MatchesRegex("20..-..-..T..:..:......Z"));
}

TEST(LogsTest, WhatClientsSendCannotBreakALine) {
  ASSERT_TRUE(InitializeLogs("info").ok());
  const std::string nasty = "quote \" backslash \\ newline \n {} %s \x01 \xff end";
  const auto lines = Lines([&] { LogInfo("nasty", {{"text", nasty}}); });
  ASSERT_EQ(lines.size(), 1);
  EXPECT_THAT(lines[0]["text"].get<std::string>(), HasSubstr("newline \n {} %s \x01"));
  EXPECT_THAT(lines[0]["text"].get<std::string>(), HasSubstr("\xef\xbf\xbd end"));
}

TEST(LogsTest, LevelsBelowAreSilent) {
  auto all = [] {
    LogDebug("d");
    LogInfo("i");
    LogWarning("w");
    LogError("e");
  };
  for (const auto& [level, expected] : std::vector<std::pair<std::string, int>>{
           {"debug", 4}, {"info", 3}, {"warning", 2}, {"error", 1}, {"off", 0}}) {
    ASSERT_TRUE(InitializeLogs(level).ok());
    EXPECT_EQ(Lines(all).size(), expected) << level;
  }
}

TEST(LogsTest, UnknownLevel) {
  const absl::Status status = InitializeLogs("loud");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("loud"));
}

}  // namespace
}  // namespace tauserve
