#include "server/rpc/convert.h"

namespace tauserve {
namespace {

SamplingSpec ToSpec(const v1::SamplingParameters& p) {
  SamplingSpec s;
  if (p.has_temperature()) s.temperature = p.temperature();
  if (p.has_top_k()) s.top_k = p.top_k();
  if (p.has_top_p()) s.top_p = p.top_p();
  if (p.has_min_p()) s.min_p = p.min_p();
  if (p.has_typical_p()) s.typical_p = p.typical_p();
  if (p.has_repetition_penalty()) s.repetition_penalty = p.repetition_penalty();
  if (p.has_presence_penalty()) s.presence_penalty = p.presence_penalty();
  if (p.has_frequency_penalty()) s.frequency_penalty = p.frequency_penalty();
  if (p.has_seed()) s.seed = p.seed();
  if (p.has_num_candidates()) s.num_candidates = p.num_candidates();
  s.logit_bias.assign(p.logit_bias().begin(), p.logit_bias().end());
  s.allowed_token_ids.assign(p.allowed_token_ids().begin(), p.allowed_token_ids().end());
  s.bad_words.assign(p.bad_words().begin(), p.bad_words().end());
  for (const v1::TokenIds& bad : p.bad_words_ids()) {
    s.bad_words_ids.emplace_back(bad.ids().begin(), bad.ids().end());
  }
  return s;
}

StoppingSpec ToSpec(const v1::StoppingCriteria& c) {
  StoppingSpec s;
  if (c.has_max_new_tokens()) s.max_new_tokens = c.max_new_tokens();
  if (c.has_min_new_tokens()) s.min_new_tokens = c.min_new_tokens();
  s.stop_strings.assign(c.stop_strings().begin(), c.stop_strings().end());
  s.stop_token_ids.assign(c.stop_token_ids().begin(), c.stop_token_ids().end());
  s.include_stop_in_output = c.include_stop_in_output();
  s.ignore_eos = c.ignore_eos();
  if (c.has_time_limit()) s.time_limit = ToAbsl(c.time_limit());
  return s;
}

ConstraintSpec ToSpec(const v1::StructuredOutput& output) {
  using Kind = ConstraintSpec::Kind;
  if (output.has_regex()) return {Kind::kRegex, output.regex()};
  if (output.has_json_schema()) return {Kind::kJsonSchema, output.json_schema()};
  if (output.has_json_object()) return {Kind::kJsonObject, ""};
  return {};
}

double Ratio(double a, int64_t b) { return b == 0 ? 0 : a / b; }

}  // namespace

GenerationSpec ToSpec(const v1::GenerationInput& input) {
  GenerationSpec spec;
  spec.request_id = input.request_id();
  spec.model = input.model();
  if (input.has_text()) spec.text = input.text();
  if (input.has_token_ids()) {
    spec.token_ids.emplace(input.token_ids().ids().begin(), input.token_ids().ids().end());
  }
  if (input.has_chat()) spec.chat = ToPrompt(input.chat());
  spec.sampling = ToSpec(input.sampling());
  spec.stopping = ToSpec(input.stopping());
  if (input.has_structured_output()) spec.constraint = ToSpec(input.structured_output());
  const v1::ResponseOptions& response = input.response();
  if (response.has_top_logprobs()) spec.top_logprobs = response.top_logprobs();
  if (response.has_top_prompt_logprobs()) {
    spec.top_prompt_logprobs = response.top_prompt_logprobs();
  }
  if (response.has_skip_special_tokens()) {
    spec.skip_special_tokens = response.skip_special_tokens();
  }
  spec.bypass_prefix_cache = input.cache().bypass_prefix_cache();
  spec.cache_salt = input.cache().salt();
  spec.priority = input.scheduling().priority();
  if (input.has_truncate_prompt_tokens()) {
    spec.truncate_prompt_tokens = input.truncate_prompt_tokens();
  }
  if (input.truncation_side() != v1::TRUNCATION_SIDE_UNSPECIFIED) {
    spec.truncation_side = static_cast<TruncationSide>(input.truncation_side());
  }
  return spec;
}

ChatPrompt ToPrompt(const v1::ChatPrompt& chat) {
  ChatPrompt prompt;
  prompt.messages.reserve(chat.messages_size());
  for (const v1::ChatMessage& message : chat.messages()) {
    prompt.messages.push_back({message.role(), message.content()});
  }
  if (chat.has_add_generation_prompt()) prompt.add_generation_prompt = chat.add_generation_prompt();
  prompt.continue_final_message = chat.continue_final_message();
  return prompt;
}

ResponseView ToView(const v1::ResponseOptions& options) {
  ResponseView view;
  if (options.has_text()) view.text = options.text();
  view.token_ids = options.token_ids();
  view.prompt_token_ids = options.prompt_token_ids();
  view.prompt_logprobs = options.has_top_prompt_logprobs();
  return view;
}

absl::Duration ToAbsl(const google::protobuf::Duration& d) {
  return absl::Seconds(d.seconds()) + absl::Nanoseconds(d.nanos());
}

google::protobuf::Duration ToProto(absl::Duration d) {
  google::protobuf::Duration proto;
  proto.set_seconds(absl::IDivDuration(d, absl::Seconds(1), &d));
  proto.set_nanos(static_cast<int32_t>(absl::IDivDuration(d, absl::Nanoseconds(1), &d)));
  return proto;
}

v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEosToken:
      return v1::FINISH_REASON_EOS_TOKEN;
    case FinishReason::kStopToken:
      return v1::FINISH_REASON_STOP_TOKEN;
    case FinishReason::kStopString:
      return v1::FINISH_REASON_STOP_STRING;
    case FinishReason::kMaxNewTokens:
      return v1::FINISH_REASON_MAX_NEW_TOKENS;
    case FinishReason::kContextLimit:
      return v1::FINISH_REASON_CONTEXT_LIMIT;
    case FinishReason::kTimeLimit:
      return v1::FINISH_REASON_TIME_LIMIT;
    case FinishReason::kAborted:
      return v1::FINISH_REASON_ABORTED;
    case FinishReason::kConstraintComplete:
      return v1::FINISH_REASON_CONSTRAINT_COMPLETE;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

v1::TokenLogprob ToProto(const TokenLogprob& logprob) {
  v1::TokenLogprob proto;
  proto.set_token_id(logprob.token);
  if (logprob.rank > 0) proto.set_logprob(logprob.logprob);
  proto.set_rank(logprob.rank);
  for (const auto& [token, value] : logprob.top) {
    v1::TopLogprob* top = proto.add_top();
    top->set_token_id(token);
    top->set_logprob(value);
  }
  return proto;
}

v1::SamplingParameters ToProto(const SamplingParams& p) {
  v1::SamplingParameters proto;
  proto.set_temperature(p.temperature);
  proto.set_top_k(p.top_k);
  proto.set_top_p(p.top_p);
  proto.set_min_p(p.min_p);
  proto.set_typical_p(p.typical_p);
  proto.set_repetition_penalty(p.repetition_penalty);
  proto.set_presence_penalty(p.presence_penalty);
  proto.set_frequency_penalty(p.frequency_penalty);
  return proto;
}

v1::CandidateFinished ToProto(const Finish& finish) {
  v1::CandidateFinished proto;
  proto.set_index(finish.candidate);
  proto.set_finish_reason(ToProto(finish.reason));
  if (finish.reason == FinishReason::kEosToken || finish.reason == FinishReason::kStopToken) {
    proto.set_stop_token_id(finish.stop_token);
  } else if (finish.reason == FinishReason::kStopString) {
    proto.set_stop_string(finish.stop_string);
  }
  return proto;
}

v1::Usage ToUsage(const Completion& c) {
  v1::Usage proto;
  proto.set_prompt_tokens(c.prompt_tokens);
  proto.set_cached_prompt_tokens(c.cached_tokens);
  proto.set_completion_tokens(c.new_tokens);
  return proto;
}

v1::Timings ToTimings(const Completion& c) {
  v1::Timings proto;
  *proto.mutable_queue() = ToProto(c.queue);
  *proto.mutable_prefill() = ToProto(c.prefill);
  *proto.mutable_time_to_first_token() = ToProto(c.time_to_first_token);
  *proto.mutable_decode() = ToProto(c.decode);
  *proto.mutable_total() = ToProto(c.total);
  proto.set_preemptions(c.preemptions);
  return proto;
}

v1::AttentionStats ToAttention(const Completion& c) {
  const AttentionStats &prefill = c.prefill_attention, &decode = c.decode_attention;
  AttentionStats all = prefill;
  all.Add(decode);
  v1::AttentionStats proto;
  proto.set_prefill_blocks_considered(prefill.blocks_considered);
  proto.set_prefill_blocks_scored(prefill.blocks_scored);
  proto.set_prefill_blocks_attended(prefill.blocks_attended);
  proto.set_kv_pages_considered(decode.pages_considered);
  proto.set_kv_pages_read(decode.pages_read);
  proto.set_keys_considered(all.keys_considered);
  proto.set_keys_scored(all.keys_scored);
  proto.set_mean_support_tokens(Ratio(all.entmax_support, all.rows));
  proto.set_mean_prefill_support_tokens(Ratio(prefill.entmax_support, prefill.rows));
  proto.set_mean_decode_support_tokens(Ratio(decode.entmax_support, decode.rows));
  proto.set_mean_tau_iterations(Ratio(all.tau_iterations, all.rows));
  proto.set_wide_rows(all.wide_rows);
  proto.set_tau_unconverged_rows(all.unconverged_rows);
  return proto;
}

}  // namespace tauserve
