// Reads a program's command line: a command, its arguments, and flags at any place. Not Abseil's
// parser, because that ends the process by itself and lets every command take every flag.
#ifndef TAUSERVE_CLIENTS_CPP_COMMAND_LINE_H_
#define TAUSERVE_CLIENTS_CPP_COMMAND_LINE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tauserve::client {

struct CommandSpec {
  const char* name;  // empty: the program has no other command, and its name is not given
  const char* arguments;
  const char* what;
  std::vector<const char*> flags;  // besides those that every command takes
};

// Abseil's flags belong to the whole process, so this says which of them a command knows.
struct Program {
  const char* name;
  const char* what;
  std::vector<CommandSpec> commands;
  std::vector<const char*> common_flags;  // that every command takes
  const char* exit_codes;
};

struct CommandLine {
  std::string command;  // one of the program's, or empty
  std::vector<std::string> arguments;
  std::vector<std::string> stop;       // of --stop
  std::vector<std::string> bad_words;  // of --bad_word
  bool help = false;
  bool version = false;
};

// `words` are argv without the program's name. Forms: --name=value, --name value; of switches
// --name, --no-name, --noname and --name=false; what follows "--" is no flag. Sets the process's
// flags. InvalidArgument names the word that is wrong.
absl::StatusOr<CommandLine> ParseCommandLine(const Program& program,
                                             const std::vector<std::string>& words);

// All commands and exit codes; or one command and its flags.
std::string HelpText(const Program& program, absl::string_view command);

}  // namespace tauserve::client

#endif  // TAUSERVE_CLIENTS_CPP_COMMAND_LINE_H_
