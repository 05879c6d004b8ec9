// The requests that settings make.
#include "clients/cpp/bench/workload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

namespace tauserve::bench {
namespace {

using testing::Each;
using testing::HasSubstr;

Settings Lengths(const char* prompt, const char* output) {
  Settings s;
  s.prompt_tokens = *LengthDistribution::Parse(prompt);
  s.output_tokens = *LengthDistribution::Parse(output);
  return s;
}

Workload::Source Vocabulary() {
  Workload::Source source;
  source.vocab_size = 8;
  source.excluded_tokens = {7, 1};
  source.max_context_tokens = 100;
  return source;
}

Workload Make(const Settings& settings, Workload::Source source) {
  const auto workload = Workload::Make(settings, std::move(source));
  EXPECT_TRUE(workload.ok()) << workload.status();
  return *workload;
}

std::vector<uint32_t> Ids(const v1::GenerateStreamRequest& request) {
  return {request.input().token_ids().ids().begin(), request.input().token_ids().ids().end()};
}

TEST(WorkloadTest, RandomTokensAreOfTheVocabulary) {
  Settings settings = Lengths("uniform:20:40", "5");
  settings.parameters.mutable_stopping()->set_ignore_eos(true);
  const Workload workload = Make(settings, Vocabulary());
  std::set<uint32_t> seen;
  std::set<size_t> lengths;
  for (int i = 0; i < 100; i++) {
    const v1::GenerateStreamRequest request = workload.Request(i);
    const std::vector<uint32_t> ids = Ids(request);
    lengths.insert(ids.size());
    seen.insert(ids.begin(), ids.end());
    EXPECT_EQ(request.input().stopping().max_new_tokens(), 5);
    EXPECT_TRUE(request.input().stopping().ignore_eos());
    EXPECT_FALSE(request.stream().prefill_progress());
  }
  EXPECT_THAT(seen, testing::ElementsAre(0, 2, 3, 4, 5, 6)) << "all but those that end an output";
  EXPECT_EQ(*lengths.begin(), 20);
  EXPECT_EQ(*lengths.rbegin(), 40);
}

TEST(WorkloadTest, ARequestIsTheSameWheneverItIsMade) {
  Settings settings = Lengths("uniform:20:40", "uniform:1:9");
  const Workload a = Make(settings, Vocabulary()), b = Make(settings, Vocabulary());
  const std::string third = b.Request(3).SerializeAsString();
  b.Request(0);
  EXPECT_EQ(a.Request(3).SerializeAsString(), third);
  EXPECT_NE(a.Request(4).SerializeAsString(), third);
  settings.seed = 1;
  EXPECT_NE(Make(settings, Vocabulary()).Request(3).SerializeAsString(), third);
}

TEST(WorkloadTest, PrefixesAreShared) {
  Settings settings = Lengths("30", "5");
  settings.prefix_tokens = 25;
  settings.num_prefixes = 2;
  const Workload workload = Make(settings, Vocabulary());
  std::set<std::vector<uint32_t>> prefixes, rests;
  for (int i = 0; i < 50; i++) {
    const std::vector<uint32_t> ids = Ids(workload.Request(i));
    ASSERT_EQ(ids.size(), 55);
    prefixes.insert({ids.begin(), ids.begin() + 25});
    rests.insert({ids.begin() + 25, ids.end()});
  }
  EXPECT_EQ(prefixes.size(), 2);
  EXPECT_EQ(rests.size(), 50);
}

TEST(WorkloadTest, PiecesOfAText) {
  Settings settings = Lengths("12", "5");
  settings.text_file = "text";
  Workload::Source source = Vocabulary();
  source.corpus = {10, 11, 12, 13, 14};
  const Workload workload = Make(settings, std::move(source));
  std::set<uint32_t> starts;
  for (int i = 0; i < 50; i++) {
    const std::vector<uint32_t> ids = Ids(workload.Request(i));
    ASSERT_EQ(ids.size(), 12);
    starts.insert(ids[0]);
    for (size_t j = 1; j < ids.size(); j++) EXPECT_EQ(ids[j] - 10, (ids[j - 1] - 10 + 1) % 5);
  }
  EXPECT_EQ(starts.size(), 5);
}

TEST(WorkloadTest, PromptsOfAFileComeInTurn) {
  Workload::Source source = Vocabulary();
  source.prompts.resize(2);
  source.prompts[0].text = "one";
  source.prompts[1].text = "two";
  source.prompts[1].max_new_tokens = 3;
  const Workload workload = Make(Lengths("500", "5"), std::move(source));
  EXPECT_EQ(workload.Request(0).input().text(), "one");
  EXPECT_EQ(workload.Request(0).input().stopping().max_new_tokens(), 5);
  EXPECT_EQ(workload.Request(3).input().text(), "two");
  EXPECT_EQ(workload.Request(3).input().stopping().max_new_tokens(), 3);
}

TEST(WorkloadTest, LengthsWithoutBoundAreCutToTheContext) {
  Settings settings = Lengths("normal:90:50", "normal:90:50");
  settings.prefix_tokens = 10;
  const Workload workload = Make(settings, Vocabulary());
  int full = 0;
  for (int i = 0; i < 200; i++) {
    const v1::GenerateStreamRequest request = workload.Request(i);
    const size_t tokens = Ids(request).size() + request.input().stopping().max_new_tokens();
    EXPECT_LE(tokens, 100);
    EXPECT_GE(Ids(request).size(), 11);
    full += tokens == 100;
  }
  EXPECT_GT(full, 100);
}

TEST(WorkloadTest, RefusesWhatCannotBe) {
  const auto error = [](const Settings& settings, Workload::Source source) {
    const auto workload = Workload::Make(settings, std::move(source));
    EXPECT_FALSE(workload.ok());
    return std::string(workload.status().message());
  };
  EXPECT_THAT(error(Lengths("uniform:1:90", "20"), Vocabulary()),
              HasSubstr("prompts of up to 90 tokens and outputs of up to 20 are more than the "
                        "model's context of 100 tokens"));
  Settings text = Lengths("5", "5");
  text.text_file = "empty.txt";
  EXPECT_EQ(error(text, Vocabulary()), "empty.txt: has no tokens");
  Workload::Source none = Vocabulary();
  none.vocab_size = 2;
  none.excluded_tokens = {0, 1, 7};
  EXPECT_THAT(error(Lengths("5", "5"), none), HasSubstr("the vocabulary has 2"));
}

}  // namespace
}  // namespace tauserve::bench
