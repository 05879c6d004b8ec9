// The bearer tokens that calls may carry. Only their SHA-256 is kept, on disk and in memory: whoever reads either can't
// call the server with it.
#ifndef TAUSERVE_SERVER_SECURITY_TOKEN_SET_H_
#define TAUSERVE_SERVER_SECURITY_TOKEN_SET_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tauserve {

enum class Scope { kInference, kControl };
const char* NameOf(Scope scope);  // "inference", "control"

class TokenSet {
 public:
  // Lines of "SHA256 SCOPE[,SCOPE]": 64 hexadecimal digits, and what the token is for. "#" begins a comment.
  // InvalidArgument with the line's number, never with its text, which may be a token itself; and if there is no token.
  static absl::StatusOr<TokenSet> Parse(absl::string_view text);
  // The same, with the file's name in the message.
  static absl::StatusOr<TokenSet> Read(const std::string& path);

  // `authorization` is a header's value, "Bearer TOKEN". Unauthenticated if it is none, or the token is unknown;
  // PermissionDenied if that is not for `scope`. Takes the same time whatever tokens there are.
  absl::Status Check(absl::string_view authorization, Scope scope) const;

  size_t size() const { return tokens_.size(); }

 private:
  struct Token {
    std::array<uint8_t, 32> digest;
    uint32_t scopes = 0;  // bits, by Scope
  };

  std::vector<Token> tokens_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_SECURITY_TOKEN_SET_H_
