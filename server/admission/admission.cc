#include "server/admission/admission.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/admission/validate.h"

namespace tauserve {
namespace {

// A status travels as HTTP/2 metadata, which clients bound to a few kilobytes.
constexpr size_t kMaxNameInMessage = 200;

std::string MakeRequestId() {
  static thread_local std::random_device device;
  return absl::StrFormat("req-%08x%08x", device(), device());
}

}  // namespace

absl::Status Admission::CheckModel(const std::string& name) const {
  if (name.empty() || name == model_->name) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("model '", name.substr(0, kMaxNameInMessage),
                                          "' is not served here; this is '", model_->name, "'"));
}

absl::StatusOr<std::shared_ptr<Request>> Admission::Admit(const GenerationSpec& spec,
                                                          absl::Time arrival,
                                                          absl::Time deadline) const {
  if (absl::Status s = CheckModel(spec.model); !s.ok()) return s;
  if (absl::Status s = ValidateRequestId(spec.request_id); !s.ok()) return s;
  if (spec.cache_salt.size() > kMaxSaltBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("salt has ", spec.cache_salt.size(), " bytes, the limit is ", kMaxSaltBytes));
  }
  if (spec.priority < -kMaxPriority || spec.priority > kMaxPriority) {
    return absl::InvalidArgumentError(absl::StrCat("priority is ", spec.priority, ", must be in [",
                                                   -kMaxPriority, ", ", kMaxPriority, "]"));
  }
  for (const auto& [name, top] : {std::pair("top_logprobs", spec.top_logprobs),
                                  std::pair("top_prompt_logprobs", spec.top_prompt_logprobs)}) {
    if (!top || *top <= kMaxTopLogprobs) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(name, " is ", *top, ", the limit is ", kMaxTopLogprobs));
  }
  auto request = std::make_shared<Request>();
  request->id = spec.request_id.empty() ? MakeRequestId() : spec.request_id;
  absl::StatusOr<SamplingParams> sampling =
      ResolveSampling(spec.sampling, default_sampling_, model_->vocab_size);
  if (!sampling.ok()) return sampling.status();
  request->sampling = *std::move(sampling);
  auto bad_words = ResolveBadWords(spec.sampling, *tokenizer_, model_->vocab_size);
  if (!bad_words.ok()) return bad_words.status();
  request->sampling.bad_words = *std::move(bad_words);
  absl::StatusOr<StoppingParams> stopping = ResolveStopping(spec.stopping, model_->vocab_size);
  if (!stopping.ok()) return stopping.status();
  request->stopping = *std::move(stopping);
  absl::StatusOr<std::vector<int32_t>> prompt = PromptTokens(spec);
  if (!prompt.ok()) return prompt.status();
  request->prompt = *std::move(prompt);
  if (absl::Status s = FitContext(spec, *request); !s.ok()) return s;
  if (absl::Status s = CheckAllowedTokens(*request); !s.ok()) return s;
  const auto at_most_all = [this](uint32_t top) {
    return std::min(static_cast<int32_t>(top), model_->vocab_size);
  };
  if (spec.top_logprobs) request->output.top_logprobs = at_most_all(*spec.top_logprobs);
  if (spec.top_prompt_logprobs) {
    request->output.top_prompt_logprobs = at_most_all(*spec.top_prompt_logprobs);
  }
  request->output.skip_special_tokens = spec.skip_special_tokens;
  request->bypass_prefix_cache = spec.bypass_prefix_cache;
  request->cache_salt = spec.cache_salt;
  request->priority = spec.priority;
  request->arrival = arrival;
  request->deadline = deadline;
  // Last, since it may take longest.
  if (absl::Status s = AddConstraint(spec, *request); !s.ok()) return s;
  return request;
}

absl::Status Admission::AddConstraint(const GenerationSpec& spec, Request& request) const {
  if (!spec.constraint) return absl::OkStatus();
  if (!request.sampling.allowed_token_ids.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("structured_output and allowed_token_ids (",
                                                   request.sampling.allowed_token_ids.size(),
                                                   " tokens) exclude each other"));
  }
  absl::StatusOr<std::shared_ptr<Constraint>> constraint = constraints_->Get(*spec.constraint);
  if (!constraint.ok()) return constraint.status();
  request.sampling.constraint = *std::move(constraint);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> Admission::PromptTokens(const GenerationSpec& spec) const {
  std::vector<int32_t> tokens;
  if (spec.text) {
    if (spec.text->empty()) return absl::InvalidArgumentError("the prompt's text is empty");
    absl::StatusOr<std::vector<int32_t>> encoded = tokenizer_->Encode(*spec.text, true);
    if (!encoded.ok()) {
      return absl::Status(encoded.status().code(),
                          absl::StrCat("prompt: ", encoded.status().message()));
    }
    tokens = *std::move(encoded);
  } else if (spec.token_ids) {
    for (uint32_t token : *spec.token_ids) {
      if (absl::Status s = ValidateToken("the prompt", token, model_->vocab_size); !s.ok()) {
        return s;
      }
      tokens.push_back(static_cast<int32_t>(token));
    }
  } else if (spec.chat) {
    absl::StatusOr<std::vector<int32_t>> encoded = chat_template_.Encode(*spec.chat);
    if (!encoded.ok()) {
      return absl::Status(encoded.status().code(),
                          absl::StrCat("chat: ", encoded.status().message()));
    }
    tokens = *std::move(encoded);
  } else {
    return absl::InvalidArgumentError("there is no prompt: set text, token_ids or chat");
  }
  if (tokens.empty()) return absl::InvalidArgumentError("the prompt has no tokens");
  if (spec.truncation_side != TruncationSide::kLeft &&
      spec.truncation_side != TruncationSide::kRight) {
    return absl::InvalidArgumentError(absl::StrCat("truncation_side is ",
                                                   static_cast<int>(spec.truncation_side),
                                                   ", must be 1 (left) or 2 (right)"));
  }
  if (spec.truncate_prompt_tokens) {
    const uint32_t keep = *spec.truncate_prompt_tokens;
    if (keep == 0) {
      return absl::InvalidArgumentError("truncate_prompt_tokens is 0, must be at least 1");
    }
    if (tokens.size() > keep && spec.truncation_side == TruncationSide::kRight) {
      tokens.resize(keep);
    } else if (tokens.size() > keep) {
      tokens.erase(tokens.begin(), tokens.end() - keep);
    }
  }
  return tokens;
}

absl::Status Admission::FitContext(const GenerationSpec& spec, Request& request) const {
  const int64_t prompt = request.prompt.size();
  const int64_t room = context_tokens_ - prompt;
  if (room < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the prompt has ", prompt, " tokens and leaves no room to generate: the context is ",
        context_tokens_, " tokens"));
  }
  const int64_t wanted =
      spec.stopping.max_new_tokens
          ? int64_t{*spec.stopping.max_new_tokens}
          : std::max<int64_t>(std::min<int64_t>(room, kDefaultMaxNewTokens),
                              std::min<int64_t>(room, spec.stopping.min_new_tokens.value_or(0)));
  if (wanted > room) {
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt's ", prompt, " tokens plus max_new_tokens of ", wanted,
                     " are more than the context of ", context_tokens_, " tokens"));
  }
  request.stopping.max_new_tokens = static_cast<int32_t>(wanted);
  const uint32_t least = spec.stopping.min_new_tokens.value_or(0);
  if (least > wanted) {
    return absl::InvalidArgumentError(
        absl::StrCat("min_new_tokens is ", least, ", more than max_new_tokens of ", wanted));
  }
  request.stopping.min_new_tokens = static_cast<int32_t>(least);
  return absl::OkStatus();
}

absl::Status Admission::CheckAllowedTokens(const Request& request) const {
  const std::vector<int32_t>& allowed = request.sampling.allowed_token_ids;
  if (allowed.empty()) return absl::OkStatus();
  const int32_t least = request.stopping.min_new_tokens;
  std::vector<int32_t> never;
  if (least > 0) never = request.stopping.EndTokens(model_->eos_token_ids);
  for (const std::vector<int32_t>& bad : request.sampling.bad_words) {
    if (bad.size() == 1) never.push_back(bad[0]);
  }
  for (int32_t token : allowed) {
    if (std::find(never.begin(), never.end(), token) == never.end()) return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("none of the ", allowed.size(),
                   " tokens of allowed_token_ids is left: bad words, or tokens that end the output "
                   "before min_new_tokens of ",
                   least));
}

}  // namespace tauserve
