#include "server/rpc/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/rpc/grpc_status.h"

namespace tauserve {
namespace {

using testing::ElementsAre;

TEST(ConvertTest, UnsetStaysUnset) {
  const GenerationSpec spec = ToSpec(v1::GenerationInput());
  EXPECT_FALSE(spec.text || spec.token_ids || spec.chat || spec.top_logprobs ||
               spec.truncate_prompt_tokens);
  EXPECT_FALSE(spec.sampling.temperature || spec.sampling.top_k || spec.sampling.seed);
  EXPECT_FALSE(spec.stopping.max_new_tokens || spec.stopping.time_limit);
  EXPECT_TRUE(spec.skip_special_tokens);
  const ResponseView view = ToView(v1::ResponseOptions());
  EXPECT_TRUE(view.text);
  EXPECT_FALSE(view.token_ids || view.prompt_token_ids);
}

TEST(ConvertTest, ZeroIsSet) {
  v1::GenerationInput input;
  input.mutable_sampling()->set_temperature(0);
  input.mutable_sampling()->set_seed(0);
  input.mutable_response()->set_top_logprobs(0);
  input.set_text("");
  const GenerationSpec spec = ToSpec(input);
  EXPECT_EQ(spec.sampling.temperature, 0.0f);
  EXPECT_EQ(spec.sampling.seed, 0u);
  EXPECT_EQ(spec.top_logprobs, 0u);
  EXPECT_EQ(spec.text, "");
}

TEST(ConvertTest, Chats) {
  v1::GenerationInput input;
  v1::ChatMessage* message = input.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content("hi");
  const GenerationSpec unset = ToSpec(input);
  ASSERT_TRUE(unset.chat && !unset.text && !unset.token_ids);
  ASSERT_EQ(unset.chat->messages.size(), 1u);
  EXPECT_EQ(unset.chat->messages[0].role, "user");
  EXPECT_EQ(unset.chat->messages[0].content, "hi");
  EXPECT_TRUE(unset.chat->add_generation_prompt);
  EXPECT_FALSE(unset.chat->continue_final_message);
  input.mutable_chat()->set_add_generation_prompt(false);
  input.mutable_chat()->set_continue_final_message(true);
  const GenerationSpec set = ToSpec(input);
  EXPECT_FALSE(set.chat->add_generation_prompt);
  EXPECT_TRUE(set.chat->continue_final_message);
}

TEST(ConvertTest, EveryFieldArrives) {
  v1::GenerationInput input;
  input.set_request_id("id");
  input.set_model("m");
  input.mutable_token_ids()->add_ids(4294967295u);
  v1::SamplingParameters& s = *input.mutable_sampling();
  s.set_temperature(1);
  s.set_top_k(2);
  s.set_top_p(3);
  s.set_min_p(4);
  s.set_typical_p(5);
  s.set_repetition_penalty(6);
  s.set_presence_penalty(7);
  s.set_frequency_penalty(8);
  s.set_seed(9);
  (*s.mutable_logit_bias())[10] = 11;
  s.add_allowed_token_ids(12);
  s.set_num_candidates(19);
  s.add_bad_words("bad");
  s.add_bad_words_ids()->add_ids(18);
  v1::StoppingCriteria& c = *input.mutable_stopping();
  c.set_max_new_tokens(13);
  c.set_min_new_tokens(14);
  c.add_stop_strings("stop");
  c.add_stop_token_ids(15);
  c.set_include_stop_in_output(true);
  c.set_ignore_eos(true);
  c.mutable_time_limit()->set_seconds(16);
  c.mutable_time_limit()->set_nanos(500'000'000);
  input.mutable_response()->set_skip_special_tokens(false);
  input.mutable_response()->set_top_prompt_logprobs(20);
  input.mutable_cache()->set_bypass_prefix_cache(true);
  input.mutable_cache()->set_salt("salt");
  input.set_truncate_prompt_tokens(17);
  input.set_truncation_side(v1::TRUNCATION_SIDE_RIGHT);

  const GenerationSpec spec = ToSpec(input);
  EXPECT_EQ(spec.request_id, "id");
  EXPECT_EQ(spec.model, "m");
  EXPECT_THAT(*spec.token_ids, ElementsAre(4294967295u));
  EXPECT_EQ(spec.sampling.temperature, 1);
  EXPECT_EQ(spec.sampling.top_k, 2);
  EXPECT_EQ(spec.sampling.top_p, 3);
  EXPECT_EQ(spec.sampling.min_p, 4);
  EXPECT_EQ(spec.sampling.typical_p, 5);
  EXPECT_EQ(spec.sampling.repetition_penalty, 6);
  EXPECT_EQ(spec.sampling.presence_penalty, 7);
  EXPECT_EQ(spec.sampling.frequency_penalty, 8);
  EXPECT_EQ(spec.sampling.seed, 9);
  EXPECT_THAT(spec.sampling.logit_bias, ElementsAre(testing::Pair(10, 11)));
  EXPECT_THAT(spec.sampling.allowed_token_ids, ElementsAre(12));
  EXPECT_THAT(spec.sampling.bad_words, ElementsAre("bad"));
  EXPECT_THAT(spec.sampling.bad_words_ids, ElementsAre(ElementsAre(18u)));
  EXPECT_EQ(spec.stopping.max_new_tokens, 13);
  EXPECT_EQ(spec.stopping.min_new_tokens, 14);
  EXPECT_THAT(spec.stopping.stop_strings, ElementsAre("stop"));
  EXPECT_THAT(spec.stopping.stop_token_ids, ElementsAre(15));
  EXPECT_TRUE(spec.stopping.include_stop_in_output && spec.stopping.ignore_eos);
  EXPECT_EQ(spec.stopping.time_limit, absl::Milliseconds(16500));
  EXPECT_FALSE(spec.skip_special_tokens);
  EXPECT_EQ(spec.top_prompt_logprobs, 20);
  EXPECT_EQ(spec.sampling.num_candidates, 19);
  EXPECT_TRUE(spec.bypass_prefix_cache);
  EXPECT_EQ(spec.cache_salt, "salt");
  EXPECT_EQ(spec.truncate_prompt_tokens, 17);
  EXPECT_EQ(spec.truncation_side, TruncationSide::kRight);
}

TEST(ConvertTest, StructuredOutputs) {
  using Kind = ConstraintSpec::Kind;
  v1::GenerationInput input;
  EXPECT_FALSE(ToSpec(input).constraint);
  input.mutable_structured_output();
  EXPECT_EQ(*ToSpec(input).constraint, (ConstraintSpec{Kind::kNone, ""}));
  input.mutable_structured_output()->set_regex("a+");
  EXPECT_EQ(*ToSpec(input).constraint, (ConstraintSpec{Kind::kRegex, "a+"}));
  input.mutable_structured_output()->set_json_schema("{}");
  EXPECT_EQ(*ToSpec(input).constraint, (ConstraintSpec{Kind::kJsonSchema, "{}"}));
  input.mutable_structured_output()->mutable_json_object();
  EXPECT_EQ(*ToSpec(input).constraint, (ConstraintSpec{Kind::kJsonObject, ""}));
}

TEST(ConvertTest, Durations) {
  for (absl::Duration d : {absl::ZeroDuration(), absl::Nanoseconds(1), absl::Milliseconds(1500),
                           absl::Hours(100), absl::Milliseconds(-1500)}) {
    EXPECT_EQ(ToAbsl(ToProto(d)), d);
  }
  EXPECT_EQ(ToProto(absl::Milliseconds(1500)).seconds(), 1);
  EXPECT_EQ(ToProto(absl::Milliseconds(1500)).nanos(), 500'000'000);
}

TEST(ConvertTest, Finishes) {
  Finish c;
  c.candidate = 3;
  c.stop_token = 5;
  c.stop_string = "end";
  c.reason = FinishReason::kEosToken;
  EXPECT_EQ(ToProto(c).finish_reason(), v1::FINISH_REASON_EOS_TOKEN);
  EXPECT_EQ(ToProto(c).stop_token_id(), 5);
  EXPECT_EQ(ToProto(c).index(), 3);
  c.reason = FinishReason::kStopString;
  EXPECT_EQ(ToProto(c).stop_string(), "end");
  c.reason = FinishReason::kConstraintComplete;
  EXPECT_EQ(ToProto(c).finish_reason(), v1::FINISH_REASON_CONSTRAINT_COMPLETE);
  c.reason = FinishReason::kTimeLimit;
  EXPECT_EQ(ToProto(c).finish_reason(), v1::FINISH_REASON_TIME_LIMIT);
  EXPECT_EQ(ToProto(c).stop_match_case(), v1::CandidateFinished::STOP_MATCH_NOT_SET);
}

TEST(ConvertTest, MeansAreOverEntmaxRows) {
  Completion c;
  c.prefill_attention.rows = 10;
  c.prefill_attention.support = 1000;  // with softmax heads
  c.prefill_attention.entmax_support = 50;
  c.prefill_attention.tau_iterations = 20;
  c.prefill_attention.blocks_considered = 7;
  c.prefill_attention.pages_considered = 8;
  c.decode_attention.rows = 10;
  c.decode_attention.entmax_support = 30;
  c.decode_attention.pages_considered = 9;
  c.decode_attention.blocks_considered = 11;
  const v1::AttentionStats stats = ToAttention(c);
  EXPECT_EQ(stats.mean_support_tokens(), 4);
  EXPECT_EQ(stats.mean_prefill_support_tokens(), 5);
  EXPECT_EQ(stats.mean_decode_support_tokens(), 3);
  EXPECT_EQ(stats.mean_tau_iterations(), 1);
  EXPECT_EQ(stats.prefill_blocks_considered(), 7);
  EXPECT_EQ(stats.kv_pages_considered(), 9);
  EXPECT_EQ(ToAttention(Completion()).mean_support_tokens(), 0);  // a softmax model has no rows
}

TEST(GrpcStatusTest, CodesAndMessages) {
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
  const grpc::Status status = ToGrpc(absl::NotFoundError("no such model"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(status.error_message(), "no such model");
  EXPECT_EQ(status.error_details(), "");
}

TEST(GrpcStatusTest, RetryInfoIsAmongTheDetails) {
  const grpc::Status status =
      ToGrpc(absl::ResourceExhaustedError("full"), absl::Milliseconds(2500));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  EXPECT_EQ(details.code(), 8);
  EXPECT_EQ(details.message(), "full");
  google::rpc::RetryInfo retry;
  ASSERT_EQ(details.details_size(), 1);
  ASSERT_TRUE(details.details(0).UnpackTo(&retry));
  EXPECT_EQ(ToAbsl(retry.retry_delay()), absl::Milliseconds(2500));
}

}  // namespace
}  // namespace tauserve
