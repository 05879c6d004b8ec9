// The flags of tauserve-cli and the commands that take them. Abseil's flags belong to the whole
// process, so this table says which of them a command knows.
#ifndef TAUSERVE_CLIENTS_CPP_FLAGS_H_
#define TAUSERVE_CLIENTS_CPP_FLAGS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/flags/declare.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"

ABSL_DECLARE_FLAG(std::string, server);
ABSL_DECLARE_FLAG(std::string, control);
ABSL_DECLARE_FLAG(absl::Duration, timeout);
ABSL_DECLARE_FLAG(bool, json);
ABSL_DECLARE_FLAG(std::string, tls_ca);
ABSL_DECLARE_FLAG(std::string, tls_cert);
ABSL_DECLARE_FLAG(std::string, tls_key);
ABSL_DECLARE_FLAG(std::string, tls_server_name);
ABSL_DECLARE_FLAG(std::string, token_file);

ABSL_DECLARE_FLAG(std::string, file);
ABSL_DECLARE_FLAG(std::string, system);
ABSL_DECLARE_FLAG(std::string, prompts);
ABSL_DECLARE_FLAG(std::string, prompt_id);
ABSL_DECLARE_FLAG(std::vector<std::string>, token_ids);
ABSL_DECLARE_FLAG(bool, stream);
ABSL_DECLARE_FLAG(bool, progress);
ABSL_DECLARE_FLAG(bool, stats);

// Fields of the API, by their names there.
ABSL_DECLARE_FLAG(std::string, request_id);
ABSL_DECLARE_FLAG(std::string, model);
ABSL_DECLARE_FLAG(absl::optional<uint32_t>, truncate_prompt_tokens);
ABSL_DECLARE_FLAG(std::string, truncation_side);
ABSL_DECLARE_FLAG(absl::optional<float>, temperature);
ABSL_DECLARE_FLAG(absl::optional<uint32_t>, top_k);
ABSL_DECLARE_FLAG(absl::optional<float>, top_p);
ABSL_DECLARE_FLAG(absl::optional<float>, min_p);
ABSL_DECLARE_FLAG(absl::optional<float>, typical_p);
ABSL_DECLARE_FLAG(absl::optional<float>, repetition_penalty);
ABSL_DECLARE_FLAG(absl::optional<float>, presence_penalty);
ABSL_DECLARE_FLAG(absl::optional<float>, frequency_penalty);
ABSL_DECLARE_FLAG(absl::optional<uint64_t>, seed);
ABSL_DECLARE_FLAG(absl::optional<uint32_t>, num_candidates);
ABSL_DECLARE_FLAG(std::string, regex);
ABSL_DECLARE_FLAG(std::string, json_schema);
ABSL_DECLARE_FLAG(bool, json_object);
ABSL_DECLARE_FLAG(absl::optional<uint32_t>, max_new_tokens);
ABSL_DECLARE_FLAG(absl::optional<uint32_t>, min_new_tokens);
ABSL_DECLARE_FLAG(std::vector<std::string>, stop_token_ids);
ABSL_DECLARE_FLAG(bool, include_stop_in_output);
ABSL_DECLARE_FLAG(bool, ignore_eos);
ABSL_DECLARE_FLAG(absl::optional<absl::Duration>, time_limit);
ABSL_DECLARE_FLAG(absl::optional<uint32_t>, top_logprobs);
ABSL_DECLARE_FLAG(absl::optional<uint32_t>, top_prompt_logprobs);
ABSL_DECLARE_FLAG(bool, return_token_ids);
ABSL_DECLARE_FLAG(bool, bypass_prefix_cache);
ABSL_DECLARE_FLAG(std::string, salt);
ABSL_DECLARE_FLAG(int32_t, priority);

ABSL_DECLARE_FLAG(bool, add_special_tokens);
ABSL_DECLARE_FLAG(bool, skip_special_tokens);
ABSL_DECLARE_FLAG(std::string, service);
ABSL_DECLARE_FLAG(absl::Duration, wait);
ABSL_DECLARE_FLAG(bool, all);
ABSL_DECLARE_FLAG(absl::Duration, drain_timeout);
ABSL_DECLARE_FLAG(std::vector<std::string>, scopes);
ABSL_DECLARE_FLAG(std::string, out);
ABSL_DECLARE_FLAG(std::string, metrics);
ABSL_DECLARE_FLAG(absl::Duration, interval);
ABSL_DECLARE_FLAG(bool, once);

namespace tauserve::client {

// No flags of Abseil's: they may be given several times, and those keep one value.
inline constexpr char kStopFlag[] = "stop";
inline constexpr char kStopHelp[] = "end before this text; may be given several times";
inline constexpr char kBadWordFlag[] = "bad_word";
inline constexpr char kBadWordHelp[] = "text not to generate; may be given several times";

struct CommandSpec {
  const char* name;
  const char* arguments;
  const char* what;
  std::vector<const char*> flags;  // besides those that every command takes
};

const std::vector<CommandSpec>& Commands();
// Null if there is none of this name.
const CommandSpec* FindCommand(absl::string_view name);
// Flags that every command takes.
const std::vector<const char*>& CommonFlags();

}  // namespace tauserve::client

#endif  // TAUSERVE_CLIENTS_CPP_FLAGS_H_
