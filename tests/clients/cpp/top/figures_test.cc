#include "clients/cpp/top/figures.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <string>

namespace tauserve::client::top {
namespace {

std::map<std::string, double> Values(const MetricsWindow& window) {
  std::map<std::string, double> values;
  for (const FigureRow& row : FiguresOf(window)) {
    EXPECT_LT(row.curve, row.figures.size()) << row.title;
    for (const Figure& figure : row.figures) {
      EXPECT_TRUE(values.emplace(figure.key, figure.value).second) << figure.key;
    }
  }
  return values;
}

Series Tauserve(const std::string& name, Labels labels = {}) {
  labels["model_name"] = "m";
  return {"tauserve_" + name, labels};
}

// Two scrapes, two seconds apart.
MetricsWindow SomeWindow() {
  MetricsWindow window(1);
  const Labels prefill = {{"phase", "prefill"}}, decode = {{"phase", "decode"}};
  Samples before = {
      {Tauserve("requests_total", {{"code", "OK"}}), 0},
      {Tauserve("requests_total", {{"code", "CANCELLED"}}), 0},
      {Tauserve("requests_total", {{"code", "INTERNAL"}}), 0},
      {Tauserve("requests_total", {{"code", "RESOURCE_EXHAUSTED"}}), 0},
      {Tauserve("prefill_tokens_total"), 1000},
      {Tauserve("generation_tokens_total"), 50},
  };
  Samples after = {
      {Tauserve("requests_running"), 3},
      {Tauserve("requests_total", {{"code", "OK"}}), 10},
      {Tauserve("requests_total", {{"code", "CANCELLED"}}), 4},
      {Tauserve("requests_total", {{"code", "INTERNAL"}}), 1},
      {Tauserve("requests_total", {{"code", "RESOURCE_EXHAUSTED"}}), 5},
      {Tauserve("prefill_tokens_total"), 1500},
      {Tauserve("generation_tokens_total"), 70},
      {Tauserve("attention_support_tokens_sum", decode), 120},
      {Tauserve("attention_support_tokens_count", decode), 40},
      {Tauserve("attention_support_tokens_sum", prefill), 10},
      {Tauserve("attention_support_tokens_count", prefill), 10},
      {Tauserve("attention_keys_support_total", decode), 120},
      {Tauserve("attention_keys_considered_total", decode), 4000},
      {Tauserve("attention_kv_pages_read_total"), 25},
      {Tauserve("attention_kv_pages_considered_total"), 100},
      {Tauserve("attention_prefill_blocks_computed_total"), 1},
      {Tauserve("attention_prefill_blocks_considered_total"), 10},
      {Tauserve("attention_decode_blocks_computed_total"), 1},
      {Tauserve("attention_decode_blocks_considered_total"), 5},
      {Tauserve("engine_seconds_total", {{"phase", "wait"}}), 0.5},
      {Tauserve("engine_seconds_total", {{"phase", "model"}}), 1.25},
      {Tauserve("engine_seconds_total", {{"phase", "sample"}}), 0.25},
      {{"process_cpu_seconds_total", {}}, 3},
      {{"process_resident_memory_bytes", {}}, 5e8},
  };
  window.Add(absl::UnixEpoch(), std::move(before));
  window.Add(absl::UnixEpoch() + absl::Seconds(2), std::move(after));
  return window;
}

TEST(FiguresTest, WhatTheMetricsSay) {
  std::map<std::string, double> v = Values(SomeWindow());
  EXPECT_EQ(v["requests_running"], 3);
  EXPECT_EQ(v["requests_ended_per_second"], 10);
  EXPECT_EQ(v["requests_failed_per_second"], 3);
  EXPECT_EQ(v["internal_errors"], 1);
  EXPECT_EQ(v["prefill_tokens_per_second"], 250);
  EXPECT_EQ(v["decode_tokens_per_second"], 10);
  EXPECT_EQ(v["decode_support_tokens"], 3);
  EXPECT_EQ(v["prefill_support_tokens"], 1);
  EXPECT_EQ(v["decode_support_ratio"], 0.03);
  EXPECT_EQ(v["decode_pages_skipped_ratio"], 0.75);
  EXPECT_EQ(v["prefill_blocks_skipped_ratio"], 0.9);
  EXPECT_EQ(v["decode_blocks_skipped_ratio"], 0.8);
  EXPECT_EQ(v["engine_model_ratio"], 0.625);
  EXPECT_EQ(v["engine_idle_ratio"], 0.25);
  EXPECT_EQ(v["cpu_cores"], 1.5);
  EXPECT_EQ(v["resident_memory_bytes"], 5e8);
  EXPECT_TRUE(std::isnan(v["kv_cache_usage_ratio"])) << "which is not there";
}

TEST(FiguresTest, RowsAreTheSameWhateverIsKnown) {
  MetricsWindow one(1);
  one.Add(absl::UnixEpoch(), {});
  EXPECT_EQ(FiguresOf(one).size(), FiguresOf(SomeWindow()).size());
  for (const auto& [key, value] : Values(one)) EXPECT_TRUE(std::isnan(value)) << key;
}

TEST(FiguresTest, Format) {
  const std::pair<double, const char*> counts[] = {
      {0, "0"},          {7, "7"},          {9999, "9999"},   {10000, "10.0k"}, {0.25, "0.25"},
      {3.14159, "3.14"}, {31.4159, "31.4"}, {314.159, "314"}, {48213, "48.2k"}, {131072, "131k"},
      {2.5e6, "2500k"},  {12.5e6, "12.5M"}, {99.97, "100"},   {9.997, "10.0"}};
  for (const auto& [value, text] : counts) EXPECT_EQ(FormatFigure(value, Unit::kCount), text);
  const std::pair<double, const char*> seconds[] = {
      {0, "0.00 ms"},     {0.00012, "0.12 ms"}, {0.0234, "23 ms"}, {0.9994, "999 ms"},
      {0.9996, "1.00 s"}, {12.345, "12.35 s"},  {640, "640 s"}};
  for (const auto& [value, text] : seconds) EXPECT_EQ(FormatFigure(value, Unit::kSeconds), text);
  EXPECT_EQ(FormatFigure(0.1234, Unit::kShare), "12.3 %");
  EXPECT_EQ(FormatFigure(3.2e8, Unit::kBytes), "320 MB");
  EXPECT_EQ(FormatFigure(1.234e11, Unit::kBytes), "123.4 GB");
  for (Unit unit : {Unit::kCount, Unit::kSeconds, Unit::kShare, Unit::kBytes}) {
    EXPECT_EQ(FormatFigure(std::numeric_limits<double>::quiet_NaN(), unit), "-");
    EXPECT_EQ(FormatFigure(std::numeric_limits<double>::infinity(), unit), "-");
  }
}

TEST(FiguresTest, Facts) {
  MetricsWindow window(1);
  Samples samples = {
      {{"tauserve_build_info",
        {{"model_name", "m"}, {"version", "1.2"}, {"commit", "c"}, {"device", "cpu"}}},
       1},
      {{"tauserve_model_info",
        {{"model_name", "m"}, {"architecture", "L"}, {"alpha_min", "1"}, {"alpha_max", "1.5"}}},
       1},
      {{"process_start_time_seconds", {}}, 1e9},
      {Tauserve("engine_stuck"), 1},
      {Tauserve("draining"), 0},
  };
  window.Add(absl::UnixEpoch(), samples);
  const ServerFacts facts = FactsOf(window);
  EXPECT_EQ(facts.model, "m");
  EXPECT_EQ(facts.alpha, "1 to 1.5");
  EXPECT_EQ(facts.device, "cpu");
  EXPECT_EQ(facts.version, "1.2");
  EXPECT_EQ(facts.started, absl::FromUnixSeconds(1'000'000'000));
  EXPECT_TRUE(facts.stuck);
  EXPECT_FALSE(facts.draining);
}

}  // namespace
}  // namespace tauserve::client::top
