// Where a command writes: results to `out`; progress, statistics and errors to `err`.
#ifndef TAUSERVE_CLIENTS_CPP_CONSOLE_H_
#define TAUSERVE_CLIENTS_CPP_CONSOLE_H_

#include <cstdio>

#include "absl/strings/string_view.h"
#include "grpcpp/support/status.h"
#include "nlohmann/json.hpp"

namespace tauserve::client {

struct Console {
  const char* program = "tauserve-cli";
  std::FILE* out = stdout;
  std::FILE* err = stderr;
  int err_columns = 0;  // width of the terminal behind `err`; 0 if it is none
  bool json = false;    // results as one JSON object

  // The console of this process.
  static Console OfProcess(const char* program, bool json);

  // One object, `indent` spaces a level; -1: on one line. Bytes that are no UTF-8 are replaced.
  void PrintJson(const nlohmann::ordered_json& object, int indent = 2) const;
  // Prints the program's name and the status, and returns the exit code that it means.
  int Fail(const grpc::Status& status) const;
  // The same of a command line that is wrong.
  int Usage(absl::string_view message) const;
};

}  // namespace tauserve::client

#endif  // TAUSERVE_CLIENTS_CPP_CONSOLE_H_
