#include "server/admission/admission.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/admission/validate.h"
#include "tests/server/engine/fake_model.h"

namespace tauserve {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr int kContext = 1000;

class AdmissionTest : public testing::Test {
 protected:
  AdmissionTest() {
    info_.name = "fake";
    info_.vocab_size = kFakeVocab;
    SamplingParams defaults;
    defaults.temperature = 0.5f;
    admission_.emplace(&info_, &tokenizer_, ChatTemplate(), defaults, kContext, &constraints_);
  }

  absl::StatusOr<std::shared_ptr<Request>> Admit(const GenerationSpec& spec) const {
    return admission_->Admit(spec, arrival_, deadline_);
  }
  void ExpectRefused(const GenerationSpec& spec, absl::StatusCode code,
                     const std::vector<std::string>& parts) const {
    const absl::Status status = Admit(spec).status();
    EXPECT_EQ(status.code(), code) << status;
    for (const std::string& part : parts) {
      EXPECT_THAT(std::string(status.message()), HasSubstr(part));
    }
  }
  static GenerationSpec Ids(size_t n) {
    GenerationSpec spec;
    spec.token_ids.emplace(n, 5);
    return spec;
  }

  ModelInfo info_;
  FakeTokenizer tokenizer_;
  const absl::Time arrival_ = absl::UnixEpoch() + absl::Seconds(5);
  const absl::Time deadline_ = absl::UnixEpoch() + absl::Seconds(9);
  ConstraintCache constraints_{&tokenizer_, kFakeVocab, 1 << 20, nullptr};
  std::optional<Admission> admission_;
};

TEST_F(AdmissionTest, Constraints) {
  using Kind = ConstraintSpec::Kind;
  GenerationSpec spec = Ids(3);
  EXPECT_EQ((*Admit(spec))->sampling.constraint, nullptr);
  spec.constraint = ConstraintSpec{Kind::kRegex, "[a-z]+"};
  const auto first = Admit(spec), second = Admit(spec);
  ASSERT_TRUE(first.ok() && second.ok()) << first.status();
  ASSERT_NE((*first)->sampling.constraint, nullptr);
  EXPECT_EQ((*first)->sampling.constraint, (*second)->sampling.constraint);
  spec.sampling.allowed_token_ids = {'a', 'b'};
  ExpectRefused(spec, absl::StatusCode::kInvalidArgument,
                {"allowed_token_ids (2 tokens) exclude each other"});
  spec.sampling.allowed_token_ids.clear();
  spec.constraint = ConstraintSpec{Kind::kRegex, "a)"};
  ExpectRefused(spec, absl::StatusCode::kInvalidArgument, {"regex: position 1"});
  spec.constraint = ConstraintSpec{Kind::kJsonSchema, R"({"items":{"multipleOf":2}})"};
  ExpectRefused(spec, absl::StatusCode::kInvalidArgument, {"json_schema: /items: keyword"});
  spec.constraint = ConstraintSpec{};
  ExpectRefused(spec, absl::StatusCode::kInvalidArgument, {"structured_output is empty"});
}

TEST_F(AdmissionTest, TextBecomesTokens) {
  GenerationSpec spec;
  spec.text = "ab";
  spec.request_id = "mine";
  spec.model = "fake";
  spec.cache_salt = "salt";
  spec.bypass_prefix_cache = true;
  spec.skip_special_tokens = false;
  spec.top_logprobs = 20;
  spec.top_prompt_logprobs = 0;
  const auto request = Admit(spec);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_THAT((*request)->prompt, ElementsAre('a', 'b'));
  EXPECT_EQ((*request)->id, "mine");
  EXPECT_EQ((*request)->cache_salt, "salt");
  EXPECT_TRUE((*request)->bypass_prefix_cache);
  EXPECT_FALSE((*request)->output.skip_special_tokens);
  EXPECT_EQ((*request)->output.top_logprobs, 20);
  EXPECT_EQ((*request)->output.top_prompt_logprobs, 0);
  EXPECT_EQ((*request)->sampling.temperature, 0.5f);
  EXPECT_EQ((*request)->arrival, arrival_);
  EXPECT_EQ((*request)->deadline, deadline_);
}

TEST_F(AdmissionTest, IdsAreMadeUpAndDiffer) {
  const auto a = Admit(Ids(1)), b = Admit(Ids(1));
  EXPECT_FALSE((*a)->id.empty());
  EXPECT_NE((*a)->id, (*b)->id);
  EXPECT_TRUE(ValidateRequestId((*a)->id).ok());
}

TEST_F(AdmissionTest, UnknownModel) {
  GenerationSpec spec = Ids(1);
  spec.model = "other";
  ExpectRefused(spec, absl::StatusCode::kNotFound, {"other", "fake"});
  spec.model = std::string(100000, 'x');
  EXPECT_LT(Admit(spec).status().message().size(), 500);
}

TEST_F(AdmissionTest, ChatsNeedATemplate) {
  GenerationSpec spec;
  spec.chat = ChatPrompt{{{"user", "a"}}};
  ExpectRefused(spec, absl::StatusCode::kInvalidArgument,
                {"chat: the model has no chat template", "--chat_template=NAME", "chatml"});
}

TEST_F(AdmissionTest, EmptyPrompts) {
  const auto invalid = absl::StatusCode::kInvalidArgument;
  ExpectRefused({}, invalid, {"no prompt"});
  ExpectRefused(Ids(0), invalid, {"prompt"});
  GenerationSpec spec;
  spec.text = "";
  ExpectRefused(spec, invalid, {"prompt"});
}

TEST_F(AdmissionTest, PromptTokensOutsideOfTheVocabulary) {
  GenerationSpec spec = Ids(3);
  spec.token_ids->at(1) = kFakeVocab;
  ExpectRefused(spec, absl::StatusCode::kInvalidArgument, {"300"});
  spec.token_ids->at(1) = 4294967295u;
  ExpectRefused(spec, absl::StatusCode::kInvalidArgument, {"4294967295", "300"});
}

TEST_F(AdmissionTest, PromptAndOutputShareTheContext) {
  const auto invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ((*Admit(Ids(kContext - 1)))->stopping.max_new_tokens, 1);
  ExpectRefused(Ids(kContext), invalid, {"1000"});
  ExpectRefused(Ids(kContext + 5), invalid, {"1005", "1000"});
  GenerationSpec spec = Ids(990);
  spec.stopping.max_new_tokens = 10;
  EXPECT_EQ((*Admit(spec))->stopping.max_new_tokens, 10);
  spec.stopping.max_new_tokens = 11;
  ExpectRefused(spec, invalid, {"990", "11", "1000"});
  spec.stopping.max_new_tokens = 4294967295u;
  ExpectRefused(spec, invalid, {"4294967295", "1000"});
}

TEST_F(AdmissionTest, DefaultOfMaxNewTokens) {
  EXPECT_EQ((*Admit(Ids(10)))->stopping.max_new_tokens, 990);  // what is left
  const Admission roomy(&info_, &tokenizer_, ChatTemplate(), {}, 100000, nullptr);
  auto admit = [&](const GenerationSpec& spec) {
    return (*roomy.Admit(spec, arrival_, deadline_))->stopping;
  };
  EXPECT_EQ(admit(Ids(10)).max_new_tokens, Admission::kDefaultMaxNewTokens);
  GenerationSpec spec = Ids(10);
  spec.stopping.min_new_tokens = 3000;  // asks for more than the default
  EXPECT_GE(admit(spec).max_new_tokens, 3000);
  EXPECT_EQ(admit(spec).min_new_tokens, 3000);
}

TEST_F(AdmissionTest, MinimumAboveMaximum) {
  GenerationSpec spec = Ids(10);
  spec.stopping.max_new_tokens = 5;
  spec.stopping.min_new_tokens = 5;
  EXPECT_TRUE(Admit(spec).ok());
  spec.stopping.min_new_tokens = 6;
  ExpectRefused(spec, absl::StatusCode::kInvalidArgument, {"min_new_tokens is 6", "5"});
}

TEST_F(AdmissionTest, MinimumNeedsAnAllowedTokenThatDoesNotEnd) {
  info_.eos_token_ids = {2};
  GenerationSpec spec = Ids(10);
  spec.sampling.allowed_token_ids = {2, 7};
  spec.stopping.stop_token_ids = {7};
  EXPECT_TRUE(Admit(spec).ok());
  spec.stopping.min_new_tokens = 3;
  ExpectRefused(spec, absl::StatusCode::kInvalidArgument,
                {"the 2 tokens of allowed_token_ids", "of 3"});
  spec.stopping.ignore_eos = true;  // 2 is a token like others now
  EXPECT_TRUE(Admit(spec).ok());
  spec.stopping.ignore_eos = false;
  spec.sampling.allowed_token_ids = {2, 7, 8};
  EXPECT_TRUE(Admit(spec).ok());
  spec.sampling.allowed_token_ids = {};
  EXPECT_TRUE(Admit(spec).ok());
}

TEST_F(AdmissionTest, BadWordsLeaveAnAllowedToken) {
  GenerationSpec spec = Ids(10);
  spec.sampling.allowed_token_ids = {2, 7};
  spec.sampling.bad_words_ids = {{2}, {7, 7}};
  EXPECT_TRUE(Admit(spec).ok());
  spec.sampling.bad_words_ids.push_back({7});
  ExpectRefused(spec, absl::StatusCode::kInvalidArgument, {"2 tokens of allowed_token_ids", "bad"});
}

TEST_F(AdmissionTest, TruncationKeepsOneSide) {
  GenerationSpec spec;
  spec.text = "abcdef";
  spec.truncate_prompt_tokens = 2;
  EXPECT_THAT((*Admit(spec))->prompt, ElementsAre('e', 'f'));
  spec.truncation_side = TruncationSide::kRight;
  EXPECT_THAT((*Admit(spec))->prompt, ElementsAre('a', 'b'));
  spec.truncation_side = static_cast<TruncationSide>(3);
  ExpectRefused(spec, absl::StatusCode::kInvalidArgument, {"truncation_side is 3", "1 (left)"});
  spec.truncation_side = TruncationSide::kLeft;
  EXPECT_THAT((*Admit(spec))->prompt, ElementsAre('e', 'f'));
  spec.truncate_prompt_tokens = 6;
  EXPECT_EQ((*Admit(spec))->prompt.size(), 6);
  spec.truncate_prompt_tokens = 4294967295u;
  EXPECT_EQ((*Admit(spec))->prompt.size(), 6);
  spec.truncate_prompt_tokens = 0;
  ExpectRefused(spec, absl::StatusCode::kInvalidArgument, {"truncate_prompt_tokens is 0", "1"});
  spec = Ids(kContext * 3);
  spec.truncate_prompt_tokens = 100;
  EXPECT_EQ((*Admit(spec))->prompt.size(), 100);  // fits once it is cut
}

TEST_F(AdmissionTest, OtherLimits) {
  GenerationSpec spec = Ids(1);
  spec.cache_salt = std::string(129, 's');
  ExpectRefused(spec, absl::StatusCode::kInvalidArgument, {"salt", "129", "128"});
  spec = Ids(1);
  spec.top_logprobs = 21;
  ExpectRefused(spec, absl::StatusCode::kInvalidArgument, {"top_logprobs", "21", "20"});
  spec = Ids(1);
  spec.top_prompt_logprobs = 21;
  ExpectRefused(spec, absl::StatusCode::kInvalidArgument, {"top_prompt_logprobs", "21", "20"});
  spec = Ids(1);
  spec.request_id = "a\nb";
  ExpectRefused(spec, absl::StatusCode::kInvalidArgument, {"request_id", "10"});
}

}  // namespace
}  // namespace tauserve
