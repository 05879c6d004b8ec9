#include <cstdio>
#include <istream>
#include <string>
#include <utility>

#include "clients/cpp/commands.h"

namespace tauserve::client {

int RunChat(Client& client, GenerateOptions options, std::istream& in, const Console& console) {
  auto& messages = *options.prompted.input.mutable_chat()->mutable_messages();
  const auto add = [&messages](const char* role, std::string content) {
    v1::ChatMessage* message = messages.Add();
    message->set_role(role);
    message->set_content(std::move(content));
  };
  const bool on_terminal = console.err_columns > 0;
  if (on_terminal) std::fprintf(console.err, "Ctrl-D ends the chat\n");
  int code = kOk;
  for (std::string line, answer;;) {
    if (on_terminal) {
      std::fprintf(console.err, "> ");
      std::fflush(console.err);
    }
    if (!std::getline(in, line)) break;
    if (line.empty()) continue;
    add("user", std::move(line));
    code = RunGenerate(client, options, console, &answer);
    if (code == kOk) {
      add("assistant", std::move(answer));
    } else {
      messages.RemoveLast();
    }
    if (client.cancelled()) return code;
  }
  if (on_terminal) std::fputc('\n', console.err);
  return code;
}

}  // namespace tauserve::client
