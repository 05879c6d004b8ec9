#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "clients/cpp/commands.h"

namespace tauserve::client {
namespace {

// The prefix lets people, and programs that look for secrets, see what it is.
std::string MakeToken() {
  unsigned char bytes[32];
  if (RAND_bytes(bytes, sizeof(bytes)) != 1) return "";
  return absl::StrCat("tau_", absl::WebSafeBase64Escape(absl::string_view(
                                  reinterpret_cast<const char*>(bytes), sizeof(bytes))));
}

std::string Sha256Hex(const std::string& text) {
  std::string digest(32, '\0');
  EVP_Digest(text.data(), text.size(), reinterpret_cast<unsigned char*>(digest.data()), nullptr,
             EVP_sha256(), nullptr);
  return absl::BytesToHexString(digest);
}

// A new file that only its owner can read; false, with errno, if there can't be one.
bool WriteSecret(const std::string& file, const std::string& secret) {
  const int descriptor = open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (descriptor < 0) return false;
  const std::string line = secret + "\n";
  const bool written = write(descriptor, line.data(), line.size()) == ssize_t(line.size());
  return close(descriptor) == 0 && written;
}

}  // namespace

int RunToken(const std::vector<std::string>& scopes, const std::string& out,
             const Console& console) {
  if (scopes.empty()) {
    std::fprintf(console.err, "tauserve-cli: --scopes is empty: choose inference, control\n");
    return kUsage;
  }
  for (const std::string& scope : scopes) {
    if (scope != "inference" && scope != "control") {
      std::fprintf(console.err, "tauserve-cli: --scopes has '%s': choose inference, control\n",
                   scope.c_str());
      return kUsage;
    }
  }
  const std::string token = MakeToken();
  if (token.empty()) {
    std::fprintf(console.err, "tauserve-cli: the system gives no random numbers\n");
    return kRefused;
  }
  const std::string line = absl::StrCat(Sha256Hex(token), " ", absl::StrJoin(scopes, ","));
  if (!out.empty() && !WriteSecret(out, token)) {
    std::fprintf(console.err, "tauserve-cli: --out: %s: %s\n", out.c_str(), std::strerror(errno));
    return kUsage;
  }
  if (console.json) {
    nlohmann::ordered_json json;
    if (out.empty()) json["token"] = token;
    json["line"] = line;
    console.PrintJson(json);
  } else {
    if (out.empty()) std::fprintf(console.out, "%s\n", token.c_str());
    std::fprintf(console.out, "%s\n", line.c_str());
  }
  return kOk;
}

}  // namespace tauserve::client
