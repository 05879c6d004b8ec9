// The commands of tauserve-cli. Each makes its call, shows the answer and returns the process's
// exit code (failure.h).
#ifndef TAUSERVE_CLIENTS_CPP_COMMANDS_H_
#define TAUSERVE_CLIENTS_CPP_COMMANDS_H_

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "clients/cpp/client.h"
#include "clients/cpp/console.h"
#include "clients/cpp/failure.h"
#include "clients/cpp/generation_input.h"

namespace tauserve::client {

struct GenerateOptions {
  PromptedInput prompted;  // if its answer is known, the exit code says whether it was given
  bool stream = true;      // show text as it comes; of one candidate
  bool progress = true;    // a progress bar during prefill
  bool stats = true;       // statistics at the end
};

// `answer`: gets the whole text of a generation that ended well.
int RunGenerate(Client& client, const GenerateOptions& options, const Console& console,
                std::string* answer = nullptr);
// A chat of as many questions as `in` has lines, each asked with all that was said before; `options` has the first
// messages. A question that is refused is forgotten. Returns the last one's exit code.
int RunChat(Client& client, GenerateOptions options, std::istream& in, const Console& console);
int RunTokenize(Client& client, const v1::TokenizeRequest& request, const Console& console);
int RunDetokenize(Client& client, const v1::DetokenizeRequest& request, const Console& console);

// `control` may be null: the model alone.
int RunInfo(Client& client, Client* control, const Console& console);
int RunLoad(Client& control, const Console& console);
// kOk if the service is SERVING, at once or within `wait`.
int RunHealth(Client& client, const std::string& service, absl::Duration wait,
              const Console& console);
// Without ids, all requests.
int RunAbort(Client& control, const std::vector<std::string>& request_ids, const Console& console);
// Makes a token and its line for the server's --auth_tokens_file, without asking a server. The
// token goes to the new file `out`, or, if that is empty, is shown before the line.
int RunToken(const std::vector<std::string>& scopes, const std::string& out,
             const Console& console);
struct TopOptions {
  std::string address;  // HOST:PORT of the server's metrics
  absl::Duration interval = absl::Seconds(1);
  bool once = false;
};

// Shows what the server does: on a terminal as a screen, until a key or a signal ends it; elsewhere, or with JSON, as text for
// each interval, or for one. On its own: it blocks signals, and may leave a thread that waits for the server.
int RunTop(const TopOptions& options, const Console& console);
int RunDrain(Client& control, absl::Duration timeout, const Console& console);

}  // namespace tauserve::client

#endif  // TAUSERVE_CLIENTS_CPP_COMMANDS_H_
