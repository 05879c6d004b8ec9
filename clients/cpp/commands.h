// The commands of tauserve-cli. Each returns the process's exit code.
#ifndef TAUSERVE_CLIENTS_CPP_COMMANDS_H_
#define TAUSERVE_CLIENTS_CPP_COMMANDS_H_

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "clients/cpp/client.h"
#include "clients/cpp/prompt_file.h"
#include "tauserve/inference/v1/inference.pb.h"

namespace tauserve::client {

// Exit codes.
inline constexpr int kOk = 0;
inline constexpr int kRefused =
    1;  // the server answered with an error, or an expected answer was not given
inline constexpr int kUsage = 2;        // bad flags or arguments
inline constexpr int kUnreachable = 3;  // no connection, or the server is not ready
inline constexpr int kInterrupted = 130;

struct GenerateOptions {
  v1::GenerationInput input;
  bool stream = true;              // show text as it comes
  bool progress = true;            // a progress bar during prefill
  bool json = false;               // print one JSON object and nothing else
  bool stats = true;               // a summary on stderr
  std::optional<Prompt> expected;  // tell whether the answer is the expected one
};

int RunGenerate(Client& client, const GenerateOptions& options);
int RunTokenize(Client& client, const std::string& text, bool add_special_tokens, bool json);
int RunDetokenize(Client& client, const std::vector<uint32_t>& ids, bool skip_special_tokens);
int RunInfo(Client& client, Client* control);
int RunLoad(Client& control);
// Exits with kOk if the service is SERVING, at once or within `wait`.
int RunHealth(Client& client, const std::string& service, absl::Duration wait);
int RunAbort(Client& control, const std::vector<std::string>& request_ids);
int RunDrain(Client& control, absl::Duration timeout);

// Prints an error status on stderr and returns the exit code that it means.
int Fail(const grpc::Status& status);

}  // namespace tauserve::client

#endif  // TAUSERVE_CLIENTS_CPP_COMMANDS_H_
