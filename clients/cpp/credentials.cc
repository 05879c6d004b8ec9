#include "clients/cpp/credentials.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include "absl/flags/flag.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "clients/cpp/connection_flags.h"

namespace tauserve::client {
namespace {

template <typename... Args>
absl::Status Invalid(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat(args...));
}

// The contents of the file that the flag names, else the variable; empty if neither does.
absl::StatusOr<std::string> ReadNamed(const char* flag, std::string file, const char* variable) {
  if (file.empty()) {
    const char* set = std::getenv(variable);
    if (set != nullptr) file = set;
  }
  if (file.empty()) return std::string();
  std::ifstream stream(file, std::ios::binary);
  std::string text(std::istreambuf_iterator<char>(stream), {});
  if (!stream.is_open() || stream.bad() || text.empty()) {
    return Invalid("--", flag, ": ", file, " cannot be read, or is empty");
  }
  return text;
}

absl::Status ReadToken(std::string& token) {
  const std::string file = absl::GetFlag(FLAGS_token_file);
  if (!file.empty()) {
    absl::StatusOr<std::string> text = ReadNamed("token_file", file, "");
    if (!text.ok()) return text.status();
    token = *std::move(text);
  } else if (const char* set = std::getenv("TAUSERVE_TOKEN")) {
    token = set;
  }
  absl::StripAsciiWhitespace(&token);
  // Its text is a secret, so it is in no message.
  if (!std::all_of(token.begin(), token.end(), absl::ascii_isgraph)) {
    return Invalid(file.empty() ? "$TAUSERVE_TOKEN" : "--token_file",
                   " is no token: it has spaces, or characters other than ASCII");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Credentials> ReadCredentials() {
  Credentials c;
  struct {
    const char* flag;
    std::string file;
    const char* variable;
    std::string& text;
  } const files[] = {{"tls_ca", absl::GetFlag(FLAGS_tls_ca), "TAUSERVE_TLS_CA", c.tls_ca},
                     {"tls_cert", absl::GetFlag(FLAGS_tls_cert), "TAUSERVE_TLS_CERT", c.tls_cert},
                     {"tls_key", absl::GetFlag(FLAGS_tls_key), "TAUSERVE_TLS_KEY", c.tls_key}};
  for (const auto& f : files) {
    absl::StatusOr<std::string> text = ReadNamed(f.flag, f.file, f.variable);
    if (!text.ok()) return text.status();
    f.text = *std::move(text);
  }
  c.tls_server_name = absl::GetFlag(FLAGS_tls_server_name);
  if (c.tls_server_name.empty()) {
    if (const char* set = std::getenv("TAUSERVE_TLS_SERVER_NAME")) c.tls_server_name = set;
  }
  if (c.tls_cert.empty() != c.tls_key.empty()) return Invalid("--tls_cert and --tls_key need both");
  if (c.tls_ca.empty() && !c.tls_cert.empty()) return Invalid("--tls_cert is set without --tls_ca");
  if (absl::Status s = ReadToken(c.token); !s.ok()) return s;
  return c;
}

}  // namespace tauserve::client
