#include "server/security/tls_files.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <ctime>
#include <memory>

#include "absl/strings/str_cat.h"
#include "server/security/read_file.h"

namespace tauserve {
namespace {

template <auto kFree>
struct Free {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using Bio = std::unique_ptr<BIO, Free<BIO_free>>;
using Certificate = std::unique_ptr<X509, Free<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;
using Context = std::unique_ptr<SSL_CTX, Free<SSL_CTX_free>>;

Bio Open(const std::string& pem) {
  return Bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

template <typename... Args>
absl::Status Invalid(const char* flag, const Args&... args) {
  ERR_clear_error();
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", args...));
}

// The library's last word, such as "ee key too small".
std::string Reason() {
  const char* reason = ERR_reason_error_string(ERR_peek_last_error());
  return reason == nullptr ? "unknown error" : reason;
}

absl::StatusOr<std::string> Read(const char* flag, const std::string& path) {
  absl::StatusOr<std::string> text = ReadFile(path);
  if (!text.ok()) return Invalid(flag, text.status().message());
  return text;
}

// Without it OpenSSL would ask the terminal for a password.
int NoPassword(char*, int, int, void*) { return -1; }

absl::Time ExpiryOf(const X509* certificate) {
  std::tm time = {};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &time) != 1) return absl::InfiniteFuture();
  return absl::FromTM(time, absl::UTCTimeZone());
}

absl::Status CheckIdentity(const TlsPaths& paths, TlsFiles& files) {
  const Context context(SSL_CTX_new(TLS_server_method()));
  const Bio chain = Open(files.cert);
  const Certificate leaf(PEM_read_bio_X509_AUX(chain.get(), nullptr, NoPassword, nullptr));
  if (leaf == nullptr) return Invalid("tls_cert", paths.cert, " has no certificate in PEM");
  if (SSL_CTX_use_certificate(context.get(), leaf.get()) != 1) {
    return Invalid("tls_cert", paths.cert, " cannot be used: ", Reason());
  }
  while (true) {
    const Certificate above(PEM_read_bio_X509(chain.get(), nullptr, NoPassword, nullptr));
    if (above == nullptr) break;
    if (SSL_CTX_add1_chain_cert(context.get(), above.get()) != 1) {
      return Invalid("tls_cert", paths.cert, " has a chain that cannot be used: ", Reason());
    }
  }
  // The end of the file is an error of this kind as well.
  if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE) {
    return Invalid("tls_cert", paths.cert, " has a broken certificate: ", Reason());
  }
  const Key key(PEM_read_bio_PrivateKey(Open(files.key).get(), nullptr, NoPassword, nullptr));
  if (key == nullptr) {
    return Invalid("tls_key", paths.key, " has no private key in PEM without a password");
  }
  if (X509_check_private_key(leaf.get(), key.get()) != 1) {
    return Invalid("tls_key", paths.key, " is not the key of the certificate in ", paths.cert);
  }
  if (SSL_CTX_use_PrivateKey(context.get(), key.get()) != 1) {
    return Invalid("tls_key", paths.key, " cannot be used: ", Reason());
  }
  files.expires = ExpiryOf(leaf.get());
  ERR_clear_error();
  return absl::OkStatus();
}

absl::Status CheckAuthorities(const TlsPaths& paths, const std::string& pem) {
  const Bio bio = Open(pem);
  int count = 0;
  while (Certificate(PEM_read_bio_X509(bio.get(), nullptr, NoPassword, nullptr)) != nullptr) {
    count++;
  }
  if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE) {
    return Invalid("tls_client_ca", paths.client_ca, " has a broken certificate: ", Reason());
  }
  if (count == 0) return Invalid("tls_client_ca", paths.client_ca, " has no certificate in PEM");
  ERR_clear_error();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TlsFiles> ReadTlsFiles(const TlsPaths& paths) {
  TlsFiles files;
  for (auto [flag, path, text] :
       {std::tuple("tls_cert", &paths.cert, &files.cert),
        std::tuple("tls_key", &paths.key, &files.key),
        std::tuple("tls_client_ca", &paths.client_ca, &files.client_ca)}) {
    if (path->empty()) continue;
    absl::StatusOr<std::string> read = Read(flag, *path);
    if (!read.ok()) return read.status();
    *text = *std::move(read);
  }
  if (absl::Status s = CheckIdentity(paths, files); !s.ok()) return s;
  if (!paths.client_ca.empty()) {
    if (absl::Status s = CheckAuthorities(paths, files.client_ca); !s.ok()) return s;
  }
  return files;
}

}  // namespace tauserve
