#include "clients/cpp/command_line.h"

#include <algorithm>
#include <optional>

#include "absl/flags/commandlineflag.h"
#include "absl/flags/reflection.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "clients/cpp/generation_flags.h"

namespace tauserve::client {
namespace {

template <typename... Args>
absl::Status Invalid(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat(args...));
}

bool Contains(const std::vector<const char*>& names, absl::string_view name) {
  return std::any_of(names.begin(), names.end(), [&](const char* n) { return name == n; });
}

// Null if there is none of this name.
const CommandSpec* FindCommand(const Program& program, absl::string_view name) {
  for (const CommandSpec& command : program.commands) {
    if (name == command.name) return &command;
  }
  return nullptr;
}

// A flag of ours; Abseil has some of its own.
bool IsKnown(const Program& program, absl::string_view name) {
  if (Contains(program.common_flags, name)) return true;
  return std::any_of(program.commands.begin(), program.commands.end(),
                     [&](const CommandSpec& c) { return Contains(c.flags, name); });
}

// Kept in a list, not by Abseil.
bool IsRepeated(absl::string_view name) { return name == kStopFlag || name == kBadWordFlag; }

bool IsSwitch(absl::string_view name) {
  return !IsRepeated(name) && absl::FindCommandLineFlag(name)->IsOfType<bool>();
}

// A word that starts with "-", as the flag it names.
struct FlagWord {
  std::string name;
  std::optional<std::string> value;
};

FlagWord Split(const Program& program, absl::string_view word) {
  absl::ConsumePrefix(&word, "-");
  absl::ConsumePrefix(&word, "-");
  const size_t equals = word.find('=');
  FlagWord flag{std::string(word.substr(0, equals)), std::nullopt};
  if (equals != absl::string_view::npos) flag.value = std::string(word.substr(equals + 1));
  if (flag.value || IsKnown(program, flag.name)) return flag;
  for (const char* prefix : {"no-", "no"}) {
    absl::string_view name = flag.name;
    if (absl::ConsumePrefix(&name, prefix) && IsKnown(program, name) && IsSwitch(name)) {
      return FlagWord{std::string(name), "false"};
    }
  }
  return flag;
}

absl::Status SetFlag(const FlagWord& flag, CommandLine& line) {
  if (IsRepeated(flag.name)) {
    (flag.name == kStopFlag ? line.stop : line.bad_words).push_back(*flag.value);
    return absl::OkStatus();
  }
  std::string error;
  if (absl::FindCommandLineFlag(flag.name)->ParseFrom(*flag.value, &error)) return absl::OkStatus();
  return Invalid("--", flag.name, ": ", error);
}

// Every flag that was set must be one that the command takes.
absl::Status CheckFlags(const Program& program, const CommandLine& line,
                        const std::vector<std::string>& set) {
  const CommandSpec* command = FindCommand(program, line.command);
  if (command == nullptr) {
    return line.command.empty() ? Invalid("no command")
                                : Invalid("unknown command '", line.command, "'");
  }
  for (const std::string& name : set) {
    if (!Contains(program.common_flags, name) && !Contains(command->flags, name)) {
      return Invalid(line.command, " takes no --", name);
    }
  }
  return absl::OkStatus();
}

void AppendFlags(const std::vector<const char*>& names, std::string& text) {
  for (const char* name : names) {
    const std::string value = IsSwitch(name) ? "" : "=...";
    const std::string help = absl::string_view(name) == kStopFlag ? kStopHelp
                             : absl::string_view(name) == kBadWordFlag
                                 ? kBadWordHelp
                                 : absl::FindCommandLineFlag(name)->Help();
    absl::StrAppendFormat(&text, "  %-28s %s\n", absl::StrCat("--", name, value), help);
  }
}

}  // namespace

absl::StatusOr<CommandLine> ParseCommandLine(const Program& program,
                                             const std::vector<std::string>& words) {
  const bool one_command = FindCommand(program, "") != nullptr;
  CommandLine line;
  std::vector<std::string> set;
  bool flags_over = false;
  for (size_t i = 0; i < words.size(); i++) {
    const std::string& word = words[i];
    if (flags_over || word.size() < 2 || word[0] != '-') {
      if (line.command.empty() && !one_command) {
        line.command = word;
      } else {
        line.arguments.push_back(word);
      }
      continue;
    }
    flags_over = word == "--";
    if (flags_over) continue;
    FlagWord flag = Split(program, word);
    line.help |= flag.name == "help" || flag.name == "h";
    line.version |= flag.name == "version";
    if (line.help || line.version) continue;
    if (!IsKnown(program, flag.name)) return Invalid("unknown flag ", word);
    if (!flag.value && IsSwitch(flag.name)) flag.value = "true";
    if (!flag.value && ++i < words.size()) flag.value = words[i];
    if (!flag.value) return Invalid("--", flag.name, " needs a value");
    if (absl::Status s = SetFlag(flag, line); !s.ok()) return s;
    set.push_back(flag.name);
  }
  if (line.command == "help") {
    line.help = true;
    line.command = line.arguments.empty() ? "" : line.arguments[0];
  }
  if (line.help || line.version) return line;
  if (absl::Status s = CheckFlags(program, line, set); !s.ok()) return s;
  return line;
}

std::string HelpText(const Program& program, absl::string_view command) {
  const std::string exit_codes = absl::StrCat("Exit codes: ", program.exit_codes, "\n");
  std::string text;
  if (const CommandSpec* spec = FindCommand(program, command)) {
    text = program.name;
    for (const char* word : {spec->name, spec->arguments}) {
      if (*word != '\0') absl::StrAppend(&text, " ", word);
    }
    absl::StrAppend(&text, " [flags]: ", spec->what, "\n");
    AppendFlags(spec->flags, text);
    const bool one_command = *spec->name == '\0';
    text += one_command ? "The connection:\n" : "Every command:\n";
    AppendFlags(program.common_flags, text);
    return one_command ? text + exit_codes : text;
  }
  text = absl::StrCat(program.name, " COMMAND [arguments] [flags]: ", program.what, "\n");
  for (const CommandSpec& spec : program.commands) {
    absl::StrAppendFormat(&text, "  %-22s %s\n", absl::StrCat(spec.name, " ", spec.arguments),
                          spec.what);
  }
  text += "Every command:\n";
  AppendFlags(program.common_flags, text);
  return absl::StrCat(text, program.name, " COMMAND --help shows a command's flags.\n", exit_codes);
}

}  // namespace tauserve::client
