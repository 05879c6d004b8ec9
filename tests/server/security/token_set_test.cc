#include "server/security/token_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace tauserve {
namespace {

using testing::HasSubstr;
using testing::Not;

// printf abc | sha256sum, and of "def".
constexpr char kAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
constexpr char kDef[] = "cb8379ac2098aa165029e3938a51da0bcecfc008fd6795f401178647f96c5b34";

TokenSet Parse(const std::string& text) {
  absl::StatusOr<TokenSet> set = TokenSet::Parse(text);
  EXPECT_TRUE(set.ok()) << set.status();
  return set.ok() ? *std::move(set) : TokenSet();
}

std::string Error(const std::string& text) {
  const absl::StatusOr<TokenSet> set = TokenSet::Parse(text);
  EXPECT_EQ(set.status().code(), absl::StatusCode::kInvalidArgument) << text;
  return std::string(set.status().message());
}

TEST(TokenSetTest, ScopesDecide) {
  const TokenSet set = Parse(absl::StrCat(kAbc, " inference\n", kDef, " inference,control\n"));
  EXPECT_EQ(set.size(), 2);
  EXPECT_TRUE(set.Check("Bearer abc", Scope::kInference).ok());
  EXPECT_TRUE(set.Check("Bearer def", Scope::kInference).ok());
  EXPECT_TRUE(set.Check("Bearer def", Scope::kControl).ok());
  const absl::Status denied = set.Check("Bearer abc", Scope::kControl);
  EXPECT_EQ(denied.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(denied.message()), HasSubstr("'control'"));
}

TEST(TokenSetTest, RefusesWhatIsUnknown) {
  const TokenSet set = Parse(absl::StrCat(kAbc, " inference"));
  for (const std::string& header :
       {std::string(), std::string("abc"), std::string("Bearer"), std::string("Bearer "),
        std::string("Bearer ab"), std::string("Bearer abcd"), std::string("Bearer ABC"),
        std::string("Bearer abc abc"), std::string("Basic abc"), absl::StrCat("Bearer ", kAbc),
        std::string("Bearer abc\0", 11)}) {
    EXPECT_EQ(set.Check(header, Scope::kInference).code(), absl::StatusCode::kUnauthenticated)
        << header;
  }
  EXPECT_TRUE(set.Check("bearer abc", Scope::kInference).ok()) << "schemes have no case";
  EXPECT_TRUE(set.Check("Bearer  abc ", Scope::kInference).ok());
}

TEST(TokenSetTest, NothingIsNoToken) {
  // The SHA-256 of no bytes, which a mistake may put into a file.
  const TokenSet set =
      Parse("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 inference");
  for (const char* header : {"", "Bearer", "Bearer ", "Bearer   "}) {
    EXPECT_EQ(set.Check(header, Scope::kInference).code(), absl::StatusCode::kUnauthenticated);
  }
}

TEST(TokenSetTest, CommentsSpacesAndCase) {
  const TokenSet set = Parse(absl::StrCat("# clients\r\n\n\t", absl::AsciiStrToUpper(kAbc),
                                          "\t control  # alice\r\n   \n"));
  EXPECT_EQ(set.size(), 1);
  EXPECT_TRUE(set.Check("Bearer abc", Scope::kControl).ok());
  EXPECT_FALSE(set.Check("Bearer abc", Scope::kInference).ok());
}

TEST(TokenSetTest, RefusesBrokenLinesByNumber) {
  const std::string abc = kAbc;
  EXPECT_THAT(Error("\n\n" + abc + "\n"), HasSubstr("line 3"));
  EXPECT_THAT(Error(abc + " inference control"), HasSubstr("line 1"));
  EXPECT_THAT(Error(abc.substr(1) + " inference"), HasSubstr("64 hexadecimal digits"));
  EXPECT_THAT(Error("g" + abc.substr(1) + " inference"), HasSubstr("64 hexadecimal digits"));
  EXPECT_THAT(Error(abc + " admin"), HasSubstr("inference and control"));
  EXPECT_THAT(Error(abc + " inference,"), HasSubstr("unknown scope"));
  EXPECT_THAT(Error(abc + " inference\n" + abc + " control"), HasSubstr("line 2"));
  EXPECT_THAT(Error(""), HasSubstr("no token"));
  EXPECT_THAT(Error("# nothing\n"), HasSubstr("no token"));
}

TEST(TokenSetTest, NoMessageHasATokenThatWasPutThereByMistake) {
  EXPECT_THAT(Error("tau_secret inference"), Not(HasSubstr("secret")));
  EXPECT_THAT(Error("tau_secret"), Not(HasSubstr("secret")));
  EXPECT_THAT(Error(absl::StrCat(kAbc, " tau_secret")), Not(HasSubstr("secret")));
}

TEST(TokenSetTest, FileIsNamed) {
  const absl::StatusOr<TokenSet> set = TokenSet::Read("/no/such/file");
  EXPECT_THAT(std::string(set.status().message()), HasSubstr("--auth_tokens_file: /no/such/file"));
  EXPECT_FALSE(TokenSet::Read("/").ok()) << "a folder";
}

}  // namespace
}  // namespace tauserve
