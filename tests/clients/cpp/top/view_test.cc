#include "clients/cpp/top/view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

namespace tauserve::client::top {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

State SomeState() {
  State state;
  state.address = "127.0.0.1:9464";
  state.interval = absl::Seconds(1);
  state.span = absl::Seconds(5);
  state.now = absl::FromUnixSeconds(10'000);
  state.scraped = state.now;
  state.facts = {"tiny", "Llama", "1.5", "cpu", "0.1", state.now - absl::Hours(3), false, false};
  state.rows = {{"Requests",
                 0,
                 {{"running", "running", Unit::kCount, 4},
                  {"waiting", "waiting", Unit::kCount, kNaN},
                  {"ended", "ended/s", Unit::kCount, 0.25}}},
                {"Tau steps", 0, {{"tau", "decode", Unit::kCount, 1.5}}}};
  state.curves = {{0, 2, 4}, {1}};
  return state;
}

int Characters(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

TEST(SparklineTest, HeightsAreSharesOfTheHighest) {
  EXPECT_EQ(Sparkline({0, 1, 2, 3, 4, 5, 6, 7}, 8, true), "▁▂▃▄▅▆▇█");
  EXPECT_EQ(Sparkline({0, 1, 2, 3, 4, 5, 6, 7}, 8, false), "_.-=+*%#");
  EXPECT_EQ(Sparkline({700, 0, 7}, 2, false), "_#") << "of those that are shown";
  EXPECT_EQ(Sparkline({7}, 4, false), "   #") << "the newest is the last";
  EXPECT_EQ(Sparkline({7, kNaN, 7}, 3, false), "# #");
  EXPECT_EQ(Sparkline({0, 0}, 3, false), " __");
  EXPECT_EQ(Sparkline({}, 3, false), "   ");
}

TEST(ViewTest, Screen) {
  const std::vector<std::string> lines = ScreenLines(SomeState(), 100, 24, {true, false});
  ASSERT_EQ(lines.size(), 7);
  EXPECT_EQ(lines[0], "tiny (Llama, α 1.5) on cpu, version 0.1");
  EXPECT_EQ(lines[1], "live: 127.0.0.1:9464, every 1s, rates of 5.0 s, up 3 h 0 min");
  EXPECT_THAT(
      lines[3],
      AllOf(StartsWith("Requests           4 running          - waiting       0.25 ended/s"),
            HasSubstr("▁▅█ to 4")));
  EXPECT_THAT(lines[4], StartsWith("τ steps         1.50 decode"));
  EXPECT_EQ(lines[6], "q: quit");
  State unknown = SomeState();
  unknown.curves[0] = {kNaN, kNaN};
  EXPECT_THAT(ScreenLines(unknown, 100, 24, {true, false})[3], Not(HasSubstr(" to ")));
  EXPECT_THAT(ScreenLines(SomeState(), 100, 24, {false, false})[0], HasSubstr("alpha 1.5"));
}

TEST(ViewTest, FitsEveryScreen) {
  for (int columns : {1, 2, 10, 40, 70, 71, 80, 93, 94, 120, 300}) {
    for (int rows : {1, 2, 5, 24, 100}) {
      for (bool utf8 : {false, true}) {
        const auto lines = ScreenLines(SomeState(), columns, rows, {utf8, false});
        EXPECT_LE(lines.size(), rows);
        for (const std::string& line : lines) EXPECT_LT(Characters(line), columns) << line;
      }
    }
  }
}

TEST(ViewTest, NamesDoNotReachTheTerminalsControls) {
  State state = SomeState();
  state.facts.model = "a\x1b[2J\nb";
  for (const auto& lines : {ScreenLines(state, 100, 24, {true, false}), PlainLines(state, {})}) {
    EXPECT_THAT(lines[0], StartsWith("a?[2J?b (Llama"));
  }
}

TEST(ViewTest, ColorsAroundWholeWords) {
  State state = SomeState();
  state.facts.stuck = true;
  const auto lines = ScreenLines(state, 100, 24, {true, true});
  EXPECT_THAT(lines[0], StartsWith("\x1b[1mtiny\x1b[m ("));
  EXPECT_THAT(lines[1], AllOf(StartsWith("\x1b[1;31mENGINE STUCK"), testing::EndsWith("\x1b[m")));
  EXPECT_THAT(lines[3], StartsWith("\x1b[1mRequests\x1b[m  "));
  for (const std::string& line : ScreenLines(state, 100, 24, {true, false})) {
    EXPECT_THAT(line, Not(HasSubstr("\x1b")));
  }
}

TEST(ViewTest, WhatIsWrongComesFirst) {
  State state = SomeState();
  auto second = [&] { return ScreenLines(state, 200, 24, {})[1]; };
  state.facts.started = state.now - absl::Seconds(5);
  EXPECT_THAT(second(), StartsWith("STARTED 5 s ago; 127.0.0.1:9464"));
  state.facts.draining = true;
  EXPECT_THAT(second(), StartsWith("DRAINING"));
  state.facts.stuck = true;
  EXPECT_THAT(second(), StartsWith("ENGINE STUCK"));
  state.failure = "no connection";
  state.now += absl::Seconds(42);
  EXPECT_EQ(second(), "NO ANSWER, figures are 42 s old: no connection");
  state = SomeState();
  state.facts.started = absl::InfinitePast();
  EXPECT_EQ(second(), "live: 127.0.0.1:9464, every 1s, rates of 5.0 s");
}

TEST(ViewTest, PlainTextHasFiguresAndNoCurves) {
  const auto lines = PlainLines(SomeState(), {});
  ASSERT_EQ(lines.size(), 4);
  EXPECT_EQ(lines[2], "Requests           4 running          - waiting       0.25 ended/s");
  State state = SomeState();
  state.failure = "no connection";
  EXPECT_EQ(PlainLines(state, {}).size(), 2) << "old figures are not printed again";
}

TEST(ViewTest, Json) {
  nlohmann::ordered_json json = JsonOf(SomeState());
  EXPECT_EQ(json["time"], "1970-01-01T02:46:40.000Z");
  EXPECT_EQ(json["model"], "tiny");
  EXPECT_EQ(json["uptime_seconds"], 10800);
  EXPECT_EQ(json["running"], 4);
  EXPECT_TRUE(json["waiting"].is_null());
  State state = SomeState();
  state.failure = "no connection";
  json = JsonOf(state);
  EXPECT_EQ(json["error"], "no connection");
  EXPECT_FALSE(json.contains("running"));
}

}  // namespace
}  // namespace tauserve::client::top
