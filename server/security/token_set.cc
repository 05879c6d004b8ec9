#include "server/security/token_set.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/security/read_file.h"

namespace tauserve {
namespace {

constexpr Scope kScopes[] = {Scope::kInference, Scope::kControl};
constexpr absl::string_view kScheme = "bearer ";

uint32_t BitOf(Scope scope) { return uint32_t{1} << static_cast<int>(scope); }

using Digest = std::array<uint8_t, 32>;

Digest DigestOf(absl::string_view token) {
  Digest digest;
  EVP_Digest(token.data(), token.size(), digest.data(), nullptr, EVP_sha256(), nullptr);
  return digest;
}

std::optional<Digest> ParseDigest(absl::string_view hex) {
  Digest digest;
  if (hex.size() != 2 * digest.size() || !std::all_of(hex.begin(), hex.end(), absl::ascii_isxdigit))
    return std::nullopt;
  const std::string bytes = absl::HexStringToBytes(hex);
  std::copy(bytes.begin(), bytes.end(), digest.begin());
  return digest;
}

std::optional<uint32_t> ParseScopes(absl::string_view text) {
  uint32_t scopes = 0;
  for (absl::string_view name : absl::StrSplit(text, ',')) {
    const Scope* scope = std::find_if(std::begin(kScopes), std::end(kScopes),
                                      [&](Scope s) { return name == NameOf(s); });
    if (scope == std::end(kScopes)) return std::nullopt;
    scopes |= BitOf(*scope);
  }
  return scopes;
}

absl::Status Invalid(int line, absl::string_view message) {
  return absl::InvalidArgumentError(absl::StrCat("line ", line, " ", message));
}

}  // namespace

const char* NameOf(Scope scope) { return scope == Scope::kControl ? "control" : "inference"; }

absl::StatusOr<TokenSet> TokenSet::Parse(absl::string_view text) {
  TokenSet set;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    number++;
    line = line.substr(0, line.find('#'));
    const std::vector<absl::string_view> words =
        absl::StrSplit(line, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
    if (words.empty()) continue;
    if (words.size() != 2) return Invalid(number, "is not of the form SHA256 SCOPE[,SCOPE]");
    const std::optional<Digest> digest = ParseDigest(words[0]);
    if (!digest) return Invalid(number, "does not begin with a SHA-256 in 64 hexadecimal digits");
    const std::optional<uint32_t> scopes = ParseScopes(words[1]);
    if (!scopes) return Invalid(number, "has an unknown scope; there are inference and control");
    for (const Token& token : set.tokens_) {
      if (token.digest == *digest) return Invalid(number, "has the token of an earlier line");
    }
    set.tokens_.push_back({*digest, *scopes});
  }
  if (set.tokens_.empty()) return absl::InvalidArgumentError("there is no token in it");
  return set;
}

absl::StatusOr<TokenSet> TokenSet::Read(const std::string& path) {
  absl::StatusOr<std::string> text = ReadFile(path);
  if (!text.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--auth_tokens_file: ", text.status().message()));
  }
  absl::StatusOr<TokenSet> set = Parse(*text);
  if (!set.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--auth_tokens_file: ", path, ": ", set.status().message()));
  }
  return set;
}

absl::Status TokenSet::Check(absl::string_view authorization, Scope scope) const {
  if (!absl::StartsWithIgnoreCase(authorization, kScheme)) {
    return absl::UnauthenticatedError("the authorization metadata is not of the form Bearer TOKEN");
  }
  const absl::string_view text = absl::StripAsciiWhitespace(authorization.substr(kScheme.size()));
  if (text.empty()) return absl::UnauthenticatedError("the token is empty");
  const Digest digest = DigestOf(text);
  uint32_t scopes = 0;
  for (const Token& token : tokens_) {
    const bool same = CRYPTO_memcmp(token.digest.data(), digest.data(), digest.size()) == 0;
    scopes |= token.scopes & (0 - uint32_t{same});
  }
  if (scopes == 0) return absl::UnauthenticatedError("the token is not known");
  if ((scopes & BitOf(scope)) == 0) {
    return absl::PermissionDeniedError(
        absl::StrCat("the token has no scope '", NameOf(scope), "'"));
  }
  return absl::OkStatus();
}

}  // namespace tauserve
