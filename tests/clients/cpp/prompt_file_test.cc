// Prompts with known answers, and the request that command line and files make.
#include "clients/cpp/prompt_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "absl/flags/flag.h"
#include "absl/flags/reflection.h"
#include "clients/cpp/command_line.h"
#include "clients/cpp/flags.h"
#include "clients/cpp/generation_input.h"

namespace tauserve::client {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

class PromptFileTest : public testing::Test {
 protected:
  std::string Write(const std::string& text) {
    file_ = testing::TempDir() + "/prompts_" + std::to_string(getpid()) + ".jsonl";
    std::ofstream(file_) << text;
    return file_;
  }
  static absl::StatusOr<PromptedInput> Read(const std::vector<std::string>& words) {
    const absl::StatusOr<CommandLine> line = ParseCommandLine(CliProgram(), words);
    if (!line.ok()) return line.status();
    return ReadGenerationInput(*line);
  }
  static std::string Error(const std::vector<std::string>& words) {
    const absl::StatusOr<PromptedInput> input = Read(words);
    EXPECT_FALSE(input.ok()) << testing::PrintToString(words);
    return std::string(input.status().message());
  }
  void TearDown() override {
    if (!file_.empty()) std::remove(file_.c_str());
  }
  std::string file_;
  absl::FlagSaver saver_;
};

constexpr char kTwoPrompts[] =
    "{\"id\": \"a\", \"prompt\": \"p1\", \"answer\": \"x\"}\n\n"
    "{\"id\": \"b\", \"prompt\": \"p2\", \"answer\": \"y z\", \"question\": \"q?\"}\n";

TEST_F(PromptFileTest, FindsByIdByNumberOrTakesTheFirst) {
  const std::string file = Write(kTwoPrompts);
  EXPECT_EQ(ReadPrompt(file, "")->text, "p1");
  EXPECT_EQ(ReadPrompt(file, "0")->text, "p1");
  EXPECT_EQ(ReadPrompt(file, "1")->text, "p2");
  const absl::StatusOr<Prompt> b = ReadPrompt(file, "b");
  ASSERT_TRUE(b.ok());
  EXPECT_EQ(b->question, "q?");
  EXPECT_TRUE(AnswerMatches(*b, " y z\n"));
  EXPECT_FALSE(AnswerMatches(*b, "y"));
  EXPECT_FALSE(AnswerMatches(*b, "y z and more"));
}

TEST_F(PromptFileTest, AnIdThatIsANumberGoesBeforeTheNumber) {
  const std::string file =
      Write("{\"id\": \"1\", \"prompt\": \"named\"}\n{\"id\": \"0\", \"prompt\": \"second\"}\n");
  EXPECT_EQ(ReadPrompt(file, "1")->text, "named");
}

TEST_F(PromptFileTest, SaysWhatIsMissing) {
  const std::string file = Write(kTwoPrompts);
  for (const char* id : {"c", "2"}) {
    EXPECT_THAT(std::string(ReadPrompt(file, id).status().message()),
                AllOf(HasSubstr(file), HasSubstr(id), HasSubstr("2 prompts")));
  }
  EXPECT_EQ(ReadPrompt("/nonexistent", "").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReadPrompt(Write(""), "").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(PromptFileTest, NamesTheBrokenLine) {
  for (const char* line : {"{broken", "[]", "{\"id\": \"z\"}", "{\"prompt\": 5}"}) {
    const std::string file = Write(std::string("{\"id\": \"a\", \"prompt\": \"p\"}\n") + line);
    EXPECT_THAT(std::string(ReadPrompt(file, "z").status().message()), HasSubstr(":2:")) << line;
  }
}

TEST_F(PromptFileTest, FlagsBecomeFieldsAndTheOthersStayUnset) {
  const auto read =
      Read({"generate", "hello", "--temperature=0", "--top_p=0.5", "--max_new_tokens=7",
            "--stop=a,b", "--stop=c", "--stop_token_ids=5,6", "--ignore_eos", "--time_limit=1.5s",
            "--top_logprobs=0", "--request_id=me", "--truncate_prompt_tokens=9", "--salt=s"});
  ASSERT_TRUE(read.ok()) << read.status();
  const v1::GenerationInput& input = read->input;
  EXPECT_EQ(input.text(), "hello");
  EXPECT_EQ(input.request_id(), "me");
  EXPECT_TRUE(input.sampling().has_temperature());
  EXPECT_EQ(input.sampling().temperature(), 0);
  EXPECT_EQ(input.sampling().top_p(), 0.5);
  EXPECT_FALSE(input.sampling().has_top_k());
  EXPECT_FALSE(input.sampling().has_seed());
  EXPECT_EQ(input.stopping().max_new_tokens(), 7);
  EXPECT_FALSE(input.stopping().has_min_new_tokens());
  EXPECT_THAT(input.stopping().stop_strings(), ElementsAre("a,b", "c"));
  EXPECT_THAT(input.stopping().stop_token_ids(), ElementsAre(5, 6));
  EXPECT_TRUE(input.stopping().ignore_eos());
  EXPECT_EQ(input.stopping().time_limit().seconds(), 1);
  EXPECT_EQ(input.stopping().time_limit().nanos(), 500'000'000);
  EXPECT_TRUE(input.response().has_top_logprobs());
  EXPECT_EQ(input.truncate_prompt_tokens(), 9);
  EXPECT_EQ(input.cache().salt(), "s");
  EXPECT_FALSE(read->expected.has_value());
}

TEST_F(PromptFileTest, PromptFromAFileOfPrompts) {
  const auto read = Read({"generate", "--prompts=" + Write(kTwoPrompts), "--prompt_id=b"});
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->input.text(), "p2");
  ASSERT_TRUE(read->expected.has_value());
  EXPECT_EQ(read->expected->answer, "y z");
}

TEST_F(PromptFileTest, PromptFromATextFile) {
  const auto read = Read({"generate", "--file=" + Write("line\n\nline\n")});
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->input.text(), "line\n\nline\n");
}

TEST_F(PromptFileTest, PromptAsTokenIds) {
  const auto read = Read({"generate", "--token_ids=0,12,4095"});
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_THAT(read->input.token_ids().ids(), ElementsAre(0, 12, 4095));
}

TEST_F(PromptFileTest, RefusesTwoPromptsAndWhatIsNone) {
  EXPECT_THAT(Error({"generate", "a", "b"}), HasSubstr("one prompt"));
  EXPECT_THAT(Error({"generate", "a", "--token_ids=1"}), HasSubstr("one prompt only"));
}

TEST_F(PromptFileTest, RefusesFilesAndIdsThatAreNone) {
  EXPECT_THAT(Error({"generate", "--file=/nonexistent"}), HasSubstr("/nonexistent"));
  absl::SetFlag(&FLAGS_file, "/");
  EXPECT_THAT(Error({"generate"}), HasSubstr("cannot be read")) << "a folder";
  absl::SetFlag(&FLAGS_file, "");
  EXPECT_THAT(Error({"generate", "--token_ids=1,x"}), HasSubstr("'x'"));
  absl::SetFlag(&FLAGS_token_ids, {});
  EXPECT_THAT(Error({"generate", "a", "--stop_token_ids=-3"}), HasSubstr("'-3'"));
  absl::SetFlag(&FLAGS_stop_token_ids, {});
  EXPECT_THAT(Error({"generate", "a", "--prompt_id=1"}), HasSubstr("--prompts"));
}

}  // namespace
}  // namespace tauserve::client
