#include "server/security/watched.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "server/security/read_file.h"

namespace tauserve {
namespace {

namespace fs = std::filesystem;

class WatchedTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(InitializeLogs("off").ok());
    folder_ = fs::path(testing::TempDir()) /
              testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    file_ = folder_ / "value";
  }
  void TearDown() override { fs::remove_all(folder_); }

  static void Write(const fs::path& file, const std::string& text) { std::ofstream(file) << text; }

  absl::StatusOr<std::shared_ptr<Watched<std::string>>> Watch() {
    return Watched<std::string>::Start("value", {file_}, [this]() -> absl::StatusOr<std::string> {
      reads_++;
      absl::StatusOr<std::string> text = ReadFile(file_);
      if (text.ok() && *text == "broken") return absl::InvalidArgumentError("broken");
      return text;
    });
  }

  template <typename Condition>
  static bool Soon(Condition condition) {
    for (int i = 0; i < 2000; i++) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  fs::path folder_, file_;
  std::atomic<int> reads_ = 0;
};

TEST_F(WatchedTest, NeedsAFirstValue) {
  EXPECT_FALSE(Watch().ok());
  Write(file_, "broken");
  EXPECT_FALSE(Watch().ok());
}

TEST_F(WatchedTest, FollowsTheFileAndKeepsTheLastGoodValue) {
  Write(file_, "one");
  const auto watched = *Watch();
  EXPECT_EQ(*watched->value(), "one");
  const auto held = watched->value();
  Write(file_, "two");
  EXPECT_TRUE(Soon([&] { return *watched->value() == "two"; }));
  EXPECT_EQ(*held, "one") << "who has a value keeps it";
  const int reads = reads_;
  Write(file_, "broken");
  EXPECT_TRUE(Soon([&] { return reads_ > reads; }));
  EXPECT_EQ(*watched->value(), "two");
  fs::remove(file_);
  EXPECT_TRUE(Soon([&] { return reads_ > reads + 1; }));
  EXPECT_EQ(*watched->value(), "two");
  Write(file_, "three");
  EXPECT_TRUE(Soon([&] { return *watched->value() == "three"; }));
}

TEST_F(WatchedTest, SeesRenamedFilesOfTheSameSizeAndTime) {
  Write(file_, "one");
  const auto time = fs::last_write_time(file_);
  const auto watched = *Watch();
  const fs::path next = folder_ / "next";
  Write(next, "two");
  fs::last_write_time(next, time);
  fs::rename(next, file_);
  EXPECT_TRUE(Soon([&] { return *watched->value() == "two"; }));
}

TEST_F(WatchedTest, SeesLinksThatAreSwitched) {
  fs::create_directories(folder_ / "a");
  fs::create_directories(folder_ / "b");
  Write(folder_ / "a" / "value", "one");
  Write(folder_ / "b" / "value", "two");
  fs::create_directory_symlink(folder_ / "a", folder_ / "current");
  file_ = folder_ / "current" / "value";
  const auto watched = *Watch();
  fs::create_directory_symlink(folder_ / "b", folder_ / "next");
  fs::rename(folder_ / "next", folder_ / "current");
  EXPECT_TRUE(Soon([&] { return *watched->value() == "two"; }));
}

TEST_F(WatchedTest, ReadsOnlyWhatHasChanged) {
  Write(file_, "one");
  const auto watched = *Watch();
  // Another one that looks as often sees two changes, each with its second look at the earliest.
  const fs::path other = folder_ / "other";
  Write(other, "1");
  const auto changing =
      *Watched<std::string>::Start("other", {other}, [&] { return ReadFile(other); });
  for (const char* text : {"22", "333"}) {
    Write(other, text);
    EXPECT_TRUE(Soon([&] { return *changing->value() == text; }));
  }
  EXPECT_EQ(reads_, 1);
}

}  // namespace
}  // namespace tauserve
