// The flags of tauserve-cli alone, and the commands that take them.
#ifndef TAUSERVE_CLIENTS_CPP_FLAGS_H_
#define TAUSERVE_CLIENTS_CPP_FLAGS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/flags/declare.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "clients/cpp/command_line.h"
#include "clients/cpp/connection_flags.h"
#include "clients/cpp/generation_flags.h"

ABSL_DECLARE_FLAG(bool, json);
ABSL_DECLARE_FLAG(std::string, file);
ABSL_DECLARE_FLAG(std::string, system);
ABSL_DECLARE_FLAG(std::string, prompts);
ABSL_DECLARE_FLAG(std::string, prompt_id);
ABSL_DECLARE_FLAG(std::vector<std::string>, token_ids);
ABSL_DECLARE_FLAG(bool, stream);
ABSL_DECLARE_FLAG(bool, progress);
ABSL_DECLARE_FLAG(bool, stats);
ABSL_DECLARE_FLAG(std::string, request_id);
ABSL_DECLARE_FLAG(absl::optional<uint32_t>, truncate_prompt_tokens);
ABSL_DECLARE_FLAG(std::string, truncation_side);
ABSL_DECLARE_FLAG(bool, add_special_tokens);
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

const Program& CliProgram();

}  // namespace tauserve::client

#endif  // TAUSERVE_CLIENTS_CPP_FLAGS_H_
