#include "server/rpc/outbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <variant>

namespace tauserve {
namespace {

using testing::ElementsAre;

Delta MakeDelta(const std::string& text, std::vector<int32_t> tokens) {
  Delta delta;
  delta.text = text;
  for (int32_t token : tokens) delta.logprobs.push_back({token, -1.0f, 1, {}});
  delta.tokens = std::move(tokens);
  return delta;
}

TEST(OutboxTest, EmptyHasNothing) {
  Outbox outbox;
  EXPECT_TRUE(std::holds_alternative<std::monostate>(outbox.Take()));
}

TEST(OutboxTest, EventsComeInTheStreamsOrder) {
  Outbox outbox;
  outbox.Put(Outbox::Started{7, 3});
  outbox.Put(Outbox::Progress{5, 7, {}});
  outbox.Put(MakeDelta("a", {1}));
  Completion completion;
  completion.new_tokens = 1;
  outbox.Put(completion);
  EXPECT_EQ(std::get<Outbox::Started>(outbox.Take()).cached_tokens, 3);
  EXPECT_EQ(std::get<Outbox::Progress>(outbox.Take()).processed_tokens, 5);
  EXPECT_EQ(std::get<Delta>(outbox.Take()).text, "a");
  EXPECT_EQ(std::get<Completion>(outbox.Take()).new_tokens, 1);
  EXPECT_TRUE(std::holds_alternative<std::monostate>(outbox.Take()));
}

TEST(OutboxTest, WhatASlowClientMissesIsMerged) {
  Outbox outbox;
  for (int i = 1; i <= 5; i++) outbox.Put(Outbox::Progress{i, 5, {}});
  outbox.Put(MakeDelta("one ", {1}));
  outbox.Put(MakeDelta("", {2}));  // a part of a character
  outbox.Put(MakeDelta("two", {3, 4}));
  EXPECT_EQ(std::get<Outbox::Progress>(outbox.Take()).processed_tokens, 5);
  const Delta merged = std::get<Delta>(outbox.Take());
  EXPECT_EQ(merged.text, "one two");
  EXPECT_THAT(merged.tokens, ElementsAre(1, 2, 3, 4));
  ASSERT_EQ(merged.logprobs.size(), 4);
  EXPECT_EQ(merged.logprobs[3].token, 4);
  EXPECT_TRUE(std::holds_alternative<std::monostate>(outbox.Take()));
  outbox.Put(MakeDelta("three", {5}));
  EXPECT_EQ(std::get<Delta>(outbox.Take()).text, "three");  // what was taken does not come again
}

TEST(OutboxTest, LogprobsOfThePromptAreKept) {
  Outbox outbox;
  outbox.Put(Outbox::Progress{1, 3, {{10, -1.0f, 1, {}}}});
  outbox.Put(Outbox::Progress{3, 3, {{11, -2.0f, 1, {}}, {12, -3.0f, 1, {}}}});
  const auto progress = std::get<Outbox::Progress>(outbox.Take());
  EXPECT_EQ(progress.processed_tokens, 3);
  ASSERT_EQ(progress.logprobs.size(), 3u);
  for (int i = 0; i < 3; i++) EXPECT_EQ(progress.logprobs[i].token, 10 + i);
}

TEST(OutboxTest, CandidatesTakeTurnsAndEndLast) {
  Outbox outbox;
  auto put = [&](int32_t candidate, const std::string& text) {
    Delta delta = MakeDelta(text, {1});
    delta.candidate = candidate;
    outbox.Put(std::move(delta));
  };
  put(1, "b");
  put(0, "a");
  put(1, "b");
  Finish finish;
  finish.candidate = 1;
  outbox.Put(finish);
  EXPECT_EQ(std::get<Delta>(outbox.Take()).text, "a");
  put(0, "more of a");
  EXPECT_EQ(std::get<Delta>(outbox.Take()).text, "bb");
  EXPECT_EQ(std::get<Delta>(outbox.Take()).text, "more of a");
  put(0, "and more");
  EXPECT_EQ(std::get<Finish>(outbox.Take()).candidate, 1);
  EXPECT_EQ(std::get<Delta>(outbox.Take()).candidate, 0);
  EXPECT_TRUE(std::holds_alternative<std::monostate>(outbox.Take()));
}

}  // namespace
}  // namespace tauserve
