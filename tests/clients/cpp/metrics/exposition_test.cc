#include "clients/cpp/metrics/exposition.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"

namespace tauserve::client {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

Samples Parse(absl::string_view text) {
  const absl::StatusOr<Samples> samples = ParseExposition(text);
  EXPECT_TRUE(samples.ok()) << samples.status() << "\n" << text;
  return samples.value_or(Samples());
}

TEST(ExpositionTest, WritesSeriesAsItReadsThem) {
  for (const Series& series : {
           Series{"plain_total", {}},
           Series{"a:b", {{"code", "OK"}, {"model", "a b } c"}}},
           Series{"a", {{"x", "\\n\n\"\\"}, {"y", ""}, {"z", "\\\"\n"}}},
       }) {
    EXPECT_EQ(Parse(WrittenSeries(series) + " 1\n"), (Samples{{series, 1}}));
  }
  EXPECT_EQ(WrittenSeries({"a_total", {{"model", "m"}, {"code", "OK"}}}),
            "a_total{code=\"OK\",model=\"m\"}");
}

TEST(ExpositionTest, LinesOfEveryForm) {
  const Samples samples = Parse(
      "# HELP a_total What \\\\ it is.\n"
      "# TYPE a_total counter\n"
      "a_total 5\n"
      "\n"
      "  \t\n"
      "#a comment\n"
      "#\n"
      "# TYPEs of comments\n"
      "b:c{x=\"1\"} -2.5e-3 1700000000000\n"
      "b:c{ x = \"2\" , y=\"\" , } 7\n"
      "  d {le=\"+Inf\"}\t1e300\t-5 \n");
  EXPECT_EQ(samples.size(), 4);
  EXPECT_EQ(samples.at({"a_total", {}}), 5);
  EXPECT_EQ(samples.at({"b:c", {{"x", "1"}}}), -2.5e-3);
  EXPECT_EQ(samples.at({"b:c", {{"x", "2"}, {"y", ""}}}), 7);
  EXPECT_EQ(samples.at({"d", {{"le", "+Inf"}}}), 1e300);
  EXPECT_TRUE(Parse("").empty());
}

TEST(ExpositionTest, LabelsMayHoldAnything) {
  const Samples samples = Parse("a{x=\"q\\\" b\\\\ n\\n } , = {\\\\n α\"} 1\n");
  ASSERT_EQ(samples.size(), 1);
  EXPECT_EQ(samples.begin()->first.labels.at("x"), "q\" b\\ n\n } , = {\\n α");
}

TEST(ExpositionTest, ValuesThatAreNoNumbers) {
  const Samples samples = Parse("a NaN\nb +Inf\nc -Inf\nd Inf\n");
  EXPECT_TRUE(std::isnan(samples.at({"a", {}})));
  EXPECT_EQ(samples.at({"b", {}}), std::numeric_limits<double>::infinity());
  EXPECT_EQ(samples.at({"c", {}}), -std::numeric_limits<double>::infinity());
  EXPECT_EQ(samples.at({"d", {}}), std::numeric_limits<double>::infinity());
}

TEST(ExpositionTest, WhatIsNotInTheFormatIsRefusedWithItsLine) {
  for (const char* wrong : {"a",
                            "a ",
                            "a x",
                            "a 1 x",
                            "a 1 2 3",
                            "a 1 2.5",
                            "a 1e",
                            "a infinity",
                            "a nan",
                            "a 0x",
                            "1a 1",
                            "a-b 1",
                            "a1{ 1",
                            "a{x} 1",
                            "a{x=1} 1",
                            "a{x=\"1} 1",
                            "a{x=\"\\t\"} 1",
                            "a{x=\"1\\",
                            "a{=\"1\"} 1",
                            "a{x=\"1\" y=\"2\"} 1",
                            "a{x=\"1\",,} 1",
                            "a{,} 1",
                            "a{x=\"1\",x=\"1\"} 1",
                            "a{x:y=\"1\"} 1",
                            "a{}",
                            "{x=\"1\"} 1",
                            "<html>",
                            "# TYPE a thing",
                            "# TYPE a",
                            "# HELP ",
                            "# HELP 1a b",
                            "# TYPE ok gauge"}) {
    const absl::StatusOr<Samples> samples =
        ParseExposition(absl::StrCat("# TYPE ok gauge\nok 1\n", wrong, "\nafter 1\n"));
    ASSERT_FALSE(samples.ok()) << wrong;
    EXPECT_EQ(samples.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(samples.status().message()), StartsWith("line 3 ")) << wrong;
    EXPECT_THAT(std::string(samples.status().message()), HasSubstr(wrong));
  }
}

TEST(ExpositionTest, ASeriesThatComesTwice) {
  const auto twice = ParseExposition("a{x=\"1\",y=\"2\"} 1\na{y=\"2\",x=\"1\"} 1\n");
  EXPECT_THAT(std::string(twice.status().message()), HasSubstr("line 2 has a series"));
}

TEST(ExpositionTest, AnAnswerThatWasCutOff) {
  for (const char* text : {"a 1\nb 12", "a 1\nb{x=\"", "a 1\n# TYPE b cou"}) {
    const auto samples = ParseExposition(text);
    EXPECT_THAT(std::string(samples.status().message()), StartsWith("line 2 is cut off")) << text;
  }
}

TEST(ExpositionTest, WhatIsShownOfALineDoesNotReachTheTerminalsControls) {
  const auto samples = ParseExposition("\x1b[2J\r\n");
  EXPECT_EQ(samples.status().message(), "line 1 is no sample: ?[2J?");
}

TEST(ExpositionTest, ALongLineIsNotShownWhole) {
  const auto samples = ParseExposition(std::string(100'000, '-') + "\n");
  EXPECT_LT(samples.status().message().size(), 200);
}

}  // namespace
}  // namespace tauserve::client
