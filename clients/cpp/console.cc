#include "clients/cpp/console.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <string>

#include "clients/cpp/failure.h"

namespace tauserve::client {
namespace {

constexpr int kUnknownWidth = 80;

int ColumnsOf(int descriptor) {
  if (!isatty(descriptor)) return 0;
  winsize size = {};
  const bool known = ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : kUnknownWidth;
}

}  // namespace

Console Console::OfProcess(const char* program, bool json) {
  Console console;
  console.program = program;
  console.err_columns = ColumnsOf(STDERR_FILENO);
  console.json = json;
  return console;
}

void Console::PrintJson(const nlohmann::ordered_json& object, int indent) const {
  const std::string text =
      object.dump(indent, ' ', false, nlohmann::json::error_handler_t::replace);
  std::fprintf(out, "%s\n", text.c_str());
}

int Console::Fail(const grpc::Status& status) const {
  std::fprintf(err, "%s: %s\n", program, FailureLine(status).c_str());
  return ExitCode(status);
}

int Console::Usage(absl::string_view message) const {
  std::fprintf(err, "%s: %s (--help shows the usage)\n", program, std::string(message).c_str());
  return kUsage;
}

}  // namespace tauserve::client
