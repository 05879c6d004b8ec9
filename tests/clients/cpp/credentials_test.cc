// What tauserve-cli sends and believes, and the tokens that it makes.
#include "clients/cpp/credentials.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/flags/flag.h"
#include "absl/flags/reflection.h"
#include "clients/cpp/commands.h"
#include "clients/cpp/flags.h"

namespace tauserve::client {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;

class CredentialsTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"TAUSERVE_TOKEN", "TAUSERVE_TLS_CA", "TAUSERVE_TLS_CERT",
                             "TAUSERVE_TLS_KEY", "TAUSERVE_TLS_SERVER_NAME"}) {
      unsetenv(name);
    }
    folder_ = fs::path(testing::TempDir()) / "credentials_test";
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override {
    unsetenv("TAUSERVE_TOKEN");
    fs::remove_all(folder_);
  }

  std::string Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
    return folder_ / name;
  }
  static std::string ReadBack(const std::string& file) {
    std::ifstream stream(file);
    return std::string(std::istreambuf_iterator<char>(stream), {});
  }
  static std::string Error() { return std::string(ReadCredentials().status().message()); }

  // What the command prints to standard output, and its exit code.
  static std::pair<std::string, int> Token(const std::vector<std::string>& scopes,
                                           const std::string& out, bool json = false) {
    Console console;
    char* text = nullptr;
    size_t size = 0;
    console.out = open_memstream(&text, &size);
    console.err = std::fopen("/dev/null", "w");
    console.json = json;
    const int code = RunToken(scopes, out, console);
    std::fclose(console.out);
    std::fclose(console.err);
    const std::string shown(text, size);
    std::free(text);
    return {shown, code};
  }

  absl::FlagSaver saver_;
  fs::path folder_;
};

TEST_F(CredentialsTest, NoneAtFirst) {
  const absl::StatusOr<Credentials> none = ReadCredentials();
  ASSERT_TRUE(none.ok());
  EXPECT_EQ(none->tls_ca + none->tls_cert + none->tls_key + none->tls_server_name + none->token,
            "");
}

TEST_F(CredentialsTest, TokenOfTheFileElseOfTheEnvironment) {
  setenv("TAUSERVE_TOKEN", "tau_b", 1);
  EXPECT_EQ(ReadCredentials()->token, "tau_b");
  absl::SetFlag(&FLAGS_token_file, Write("token", "tau_a\n"));
  EXPECT_EQ(ReadCredentials()->token, "tau_a");
}

TEST_F(CredentialsTest, RefusesTokensThatCannotBeSentWithoutShowingThem) {
  for (const char* bad : {"tau_secret two", "tau_secret\x01", "tau_secr\xc3\xa9t"}) {
    setenv("TAUSERVE_TOKEN", bad, 1);
    EXPECT_THAT(Error(), HasSubstr("$TAUSERVE_TOKEN"));
    EXPECT_THAT(Error(), Not(HasSubstr("secr")));
  }
  absl::SetFlag(&FLAGS_token_file, (folder_ / "nothing").string());
  EXPECT_THAT(Error(), HasSubstr("--token_file: "));
}

TEST_F(CredentialsTest, CertificatesAreRead) {
  setenv("TAUSERVE_TLS_CA", Write("ca", "authorities").c_str(), 1);
  EXPECT_EQ(ReadCredentials()->tls_ca, "authorities");
  absl::SetFlag(&FLAGS_tls_cert, Write("cert", "certificate"));
  EXPECT_THAT(Error(), HasSubstr("--tls_key"));
  absl::SetFlag(&FLAGS_tls_key, Write("key", "secret"));
  EXPECT_EQ(ReadCredentials()->tls_key, "secret");
  unsetenv("TAUSERVE_TLS_CA");
  EXPECT_THAT(Error(), HasSubstr("--tls_ca"));
  absl::SetFlag(&FLAGS_tls_ca, "/no/such/file");
  EXPECT_THAT(Error(), HasSubstr("/no/such/file"));
}

TEST_F(CredentialsTest, MakesTokens) {
  const auto [shown, code] = Token({"inference", "control"}, "");
  EXPECT_EQ(code, kOk);
  EXPECT_THAT(shown, MatchesRegex("tau_[A-Za-z0-9_-]{43}\n[0-9a-f]{64} inference,control\n"));
  EXPECT_NE(Token({"inference"}, "").first.substr(0, 47), shown.substr(0, 47));
  EXPECT_EQ(Token({"admin"}, "").second, kUsage);
  EXPECT_EQ(Token({}, "").second, kUsage);
  EXPECT_THAT(Token({"control"}, "", /*json=*/true).first, HasSubstr("\"token\": \"tau_"));
}

TEST_F(CredentialsTest, TokenGoesToANewFileThatOnlyItsOwnerReads) {
  const std::string file = folder_ / "new";
  const auto [shown, code] = Token({"inference"}, file);
  EXPECT_EQ(code, kOk);
  EXPECT_THAT(shown, MatchesRegex("[0-9a-f]{64} inference\n"));
  const std::string token = ReadBack(file);
  EXPECT_THAT(token, MatchesRegex("tau_[A-Za-z0-9_-]{43}\n"));
  struct stat s;
  ASSERT_EQ(stat(file.c_str(), &s), 0);
  EXPECT_EQ(s.st_mode & 0777, 0600);
  EXPECT_EQ(Token({"inference"}, file).second, kUsage) << "nothing is overwritten";
  EXPECT_EQ(ReadBack(file), token);
}

}  // namespace
}  // namespace tauserve::client
